"""An import on its way: what it works with, batch by batch, for a job as for a preview."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from uuid import UUID

from commands.importing.dates import detect_orders, with_orders
from commands.importing.deciding import Decided, Decider, RowOutcome, RowResult
from commands.importing.findings import Finding
from commands.importing.keyindex import Ids, KeyIndex
from commands.importing.lookup import Lookup
from commands.importing.options import (
    ACCOUNT,
    Column,
    Directory,
    ImportOptions,
    Mode,
    columns_of,
)
from commands.importing.planning import ImportedRow, RowPlanner
from commands.importing.tables import SourceRow, SourceTable
from commands.importing.worlds import ContactsOf, LogWorld, PreviewOverlay
from commands.links import MEMBER_FIELDS
from domain.account import Account
from domain.member import Member
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog

BATCH_ROWS = 500
"""Rows in one transaction; it takes some 100 ms, far from the 5 s that a writer may take."""


@dataclass(frozen=True)
class Reading:
    """What an import asks of the read tables; on the connection of an open transaction."""

    names: Callable[[Connection, UUID, str, str], Iterable[tuple[str, UUID]]]
    """Name (the field of this wire name) and id of everything in a list."""
    keys: Callable[
        [Connection, UUID, str, Sequence[str]], Iterable[tuple[UUID, tuple[str | None, ...]]]
    ]
    """Id and these fields of everything in a list, as text."""
    contacts_of: ContactsOf


@dataclass(frozen=True)
class ImportEngine:
    """What plans and decides the rows of one import, on what there was when it was made."""

    planner: RowPlanner
    decider: Decider
    log: EventLog
    scope: Scope
    contacts_of: ContactsOf

    def plan(self, row: SourceRow) -> ImportedRow:
        """The row as commands."""
        return self.planner.plan_row(row)

    def world(self, connection: Connection) -> LogWorld:
        """What there is, within this transaction."""
        return LogWorld(self.log, connection, self.scope, self.contacts_of)


def open_import_engine(
    log: EventLog,
    scope: Scope,
    reading: Reading,
    options: ImportOptions,
    columns: Sequence[Column],
    import_id: UUID,
    clock: Callable[[], datetime],
) -> ImportEngine:
    """Reads names and keys of what there is: the read tables have to be as far as the log is."""
    with log.transaction(scope) as connection:
        directory = _directory(connection, scope.workspace_id, reading, columns)
        known = KeyIndex()
        if options.dedupe_by and options.mode is not Mode.CREATE:
            plural, by = options.kind.PLURAL, options.dedupe_by
            known = KeyIndex(reading.keys(connection, scope.workspace_id, plural, by))
    planner = RowPlanner(options, columns, directory, clock)
    decider = Decider(options, scope.workspace_id, Ids(import_id), known)
    return ImportEngine(planner, decider, log, scope, reading.contacts_of)


def _directory(
    connection: Connection, workspace_id: UUID, reading: Reading, columns: Sequence[Column]
) -> Directory:
    """Names of accounts and members, where a column refers to them."""
    fields = {each.field for each in columns}

    def names(referring: Iterable[str], plural: str, name: str) -> Lookup[UUID]:
        if fields.isdisjoint(referring):
            return Lookup(())
        return Lookup(reading.names(connection, workspace_id, plural, name))

    return Directory(
        accounts=names((ACCOUNT,), Account.PLURAL, "company"),
        members=names(MEMBER_FIELDS, Member.PLURAL, "name"),
    )


@dataclass
class ImportTally:
    """What came of rows, or what would."""

    rows: int = 0
    results: Counter[RowResult] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """How many errors there are, by code."""
    warnings: Counter[str] = field(default_factory=Counter)
    """How many warnings there are, by code; rows that were skipped give none."""

    def add(self, outcomes: Iterable[RowOutcome]) -> None:
        """Count these."""
        for each in outcomes:
            self.rows += 1
            self.results[each.result] += 1
            self.say(worth_saying(each))

    def say(self, findings: Iterable[Finding]) -> None:
        """Count findings."""
        for each in findings:
            (self.errors if each.is_error else self.warnings)[each.code] += 1


def worth_saying(outcome: RowOutcome) -> tuple[Finding, ...]:
    """What is said of a row: nothing where it was skipped."""
    return () if outcome.result is RowResult.SKIPPED else outcome.findings


@dataclass
class Preview:
    """What would come of the first rows, or of all of them."""

    tally: ImportTally = field(default_factory=ImportTally)
    outcomes: list[RowOutcome] = field(default_factory=list)
    """Of the very first rows."""
    findings: list[Finding] = field(default_factory=list)
    """As far as they are kept."""


def preview(
    engine: ImportEngine,
    options: ImportOptions,
    rows: Iterator[SourceRow],
    doubts: Iterable[Finding],
    clock: Callable[[], datetime],
    *,
    shown_max: int,
    findings_max: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Preview:
    """Decide these rows without recording anything."""
    found = Preview()
    found.tally.say(doubts)
    found.findings += doubts
    imagined = PreviewOverlay(options.mode)
    while batch := list(islice(rows, BATCH_ROWS)):
        planned = [engine.plan(row) for row in batch]
        with engine.log.transaction(engine.scope) as connection:
            world = imagined.over(engine.world(connection))
            decided = engine.decider.decide(planned, world, clock())
        imagined.add(decided)
        _note(found, decided, shown_max, findings_max)
        progress(found.tally.rows)
    return found


def _note(found: Preview, decided: Decided, shown_max: int, findings_max: int) -> None:
    found.tally.add(decided.outcomes)
    found.outcomes += decided.outcomes[: max(0, shown_max - len(found.outcomes))]
    said = [each for outcome in decided.outcomes for each in worth_saying(outcome)]
    found.findings += said[: max(0, findings_max - len(found.findings))]


def dated_columns(
    options: ImportOptions, table: SourceTable
) -> tuple[list[Column], dict[str, str], list[Finding]]:
    """What becomes of the columns of this file, the orders of its dates, and what is doubtful.

    Raises `ImportRefused` where options and columns do not go together.
    """
    columns = columns_of(options, table.columns)
    orders, doubts = detect_orders(columns, table, options.dates)
    dated = with_orders(columns, orders)
    return dated, {name: order.value for name, order in orders.items()}, doubts
