"""An import from a file into a workspace: what the command line asks, put together and run."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

import psycopg
from eventsourcing.persistence import InterfaceError, OperationalError

from api.commandline import CommandError
from api.direct import catch_up, only_import
from api.settings import Settings
from api.wiring import new_id, now, open_writing
from commands.importing.findings import Finding, ImportRefused
from commands.importing.lookup import Lookup
from commands.importing.options import Directory, ImportOptions
from commands.importing.planning import key_part
from commands.importing.tables import Table, open_table
from commands.importing.writing import BatchWriter
from commands.imports import Import, ImportResult, Progress
from domain.account import Account
from domain.cells import neutralised
from domain.member import Member
from eventlog.connections import Connection
from eventlog.scope import SYSTEM, Actor, Scope
from readmodels.names import keys, names

LOST = (OperationalError, InterfaceError, psycopg.OperationalError)
REPORT_COLUMNS = ("row", "severity", "column", "value", "code", "message")


def run_import(
    settings: Settings,
    workspace_id: UUID,
    options: ImportOptions,
    table: Table,
    *,
    actor: Actor = SYSTEM,
    progress: Progress = lambda done, total: None,
) -> ImportResult:
    """Import a table into a workspace, of which one import at a time may be under way.

    All of its events carry one command id. Reads wait for the projections before (to know what is
    there) and after. Raises `ImportRefused` and `CommandError`.
    """
    scope = Scope(
        workspace_id,
        actor,
        command="import",
        command_id=str(new_id()),
        extra={"file": table.path.name},
    )
    try:
        return _import(settings, scope, options, table, progress)
    except LOST as failure:
        raise CommandError(
            f"The database was lost on the way ({str(failure).partition(chr(10))[0]}). What was"
            " recorded stays; with --dedupe-by the same import again does the rest."
        ) from None


def _import(
    settings: Settings, scope: Scope, options: ImportOptions, table: Table, progress: Progress
) -> ImportResult:
    workspace_id = scope.workspace_id
    with ExitStack() as stack:
        reader = stack.enter_context(only_import(settings, workspace_id))
        log = stack.enter_context(open_writing(settings)).log
        BatchWriter(log, scope).settle()
        catch_up(settings)
        done = Import(
            log,
            scope,
            options,
            table,
            _directory(reader, workspace_id),
            _existing(reader, workspace_id, options),
            clock=now,
            new_id=new_id,
        ).run(progress)
        if done.position:
            catch_up(settings)
    return done


def known_values(path: Path, column: str) -> Lookup[str]:
    """The different values of a column of another file. Raises `ImportRefused`."""
    table = open_table(path)
    if column not in table.columns:
        raise ImportRefused(f"{path} has no column {column!r}.")
    return Lookup((value, value) for value in dict.fromkeys(table.values(column)))


def write_report(path: Path, findings: Iterable[Finding]) -> None:
    """Write every finding to a file: JSON where its name ends so, else CSV. Raises OSError."""
    if path.suffix.lower() == ".json":
        rows = [asdict(each) for each in findings]
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(REPORT_COLUMNS)
        for each in findings:
            row = asdict(each)
            writer.writerow(neutralised(str(row[name])) for name in REPORT_COLUMNS)


def _directory(reader: Connection, workspace_id: UUID) -> Directory:
    return Directory(
        accounts=Lookup(names(reader, workspace_id, Account.PLURAL, "company")),
        members=Lookup(names(reader, workspace_id, Member.PLURAL, "name")),
    )


def _existing(
    reader: Connection, workspace_id: UUID, options: ImportOptions
) -> Iterator[tuple[str, ...]]:
    if options.dedupe_by:
        for row in keys(reader, workspace_id, options.kind.PLURAL, options.dedupe_by):
            yield tuple(key_part(part) for part in row)
