"""An import from a file of this machine: what the command line asks, put together and run.

It is the import that the API does: the file is handed in, a job takes its rows. Where no worker
runs, or none is faster, the job is done here.
"""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from uuid import UUID

import psycopg
from eventsourcing.persistence import InterfaceError, OperationalError

from commands.importing.commands import DatedColumns, ImportCommands
from commands.importing.deciding import RowResult
from commands.importing.findings import Finding, ImportRefused, Severity
from commands.importing.lookup import Lookup
from commands.importing.options import ImportOptions
from commands.importing.running import Preview, dated_columns, open_import_engine, preview
from commands.importing.store import FINDINGS_MAX, PART_BYTES, ImportStore
from commands.importing.tables import SourceFile, SourceTable, open_table
from commands.importing.work import KIND
from commands.jobs.requests import JobCommands
from commands.jobs.runs import JobEnvironment, JobRun
from commands.jobs.worker import claim_job
from domain.job import Job, JobStatus
from domain.shared.cells import neutralised
from eventlog.connections import Connection, follow_connection
from eventlog.scope import SYSTEM, Actor, Scope
from runtime.composition import Writing, app_url, new_id, now, open_writing
from runtime.errors import summarise_error
from runtime.settings import Settings
from runtime.work import work_factories
from runtime.work.imports import READING
from server.cli import CommandError
from server.cli.local.database import catch_up

LOST = (OperationalError, InterfaceError, psycopg.OperationalError)
REPORT_COLUMNS = ("row", "severity", "column", "value", "code", "message")
PARTS_AT_ONCE = 8
"""So many parts of a file are handed in by one transaction."""
TURN_S = 0.3
"""After this time progress is shown."""
POLL_S = 0.1
FINDINGS_PAGE = 5_000

OnProgress = Callable[[int, int], None]
"""Called with the rows that are done and all there are."""


@dataclass
class ImportResult:
    """What came of an import. Of a dry run: what would have come of it."""

    rows: int = 0
    created: int = 0
    updated: int = 0
    skipped: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """How many errors there are, by code."""
    warnings: Counter[str] = field(default_factory=Counter)
    """How many warnings there are, by code; rows that were skipped give none."""
    findings: list[Finding] = field(default_factory=list)
    """As far as they are kept (`FINDINGS_MAX`)."""
    position: int = 0
    """A log position by which all of it is recorded; 0 where nothing was."""

    def report(self, findings: Iterable[Finding]) -> None:
        """Keep and count these findings."""
        for each in findings:
            (self.errors if each.is_error else self.warnings)[each.code] += 1
            self.findings.append(each)
        self.findings.sort(key=lambda each: each.row)


def run_import(
    settings: Settings,
    workspace_id: UUID,
    options: ImportOptions,
    table: SourceTable,
    *,
    dry_run: bool = False,
    actor: Actor = SYSTEM,
    progress: OnProgress = lambda done, total: None,
) -> ImportResult:
    """Import a table into a workspace, of which one import at a time may be under way.

    One that was cut off before is brought to its end first. Reads wait for the projections before
    (to know what is there) and after. Raises `ImportRefused` and `CommandError`.
    """
    scope = Scope(workspace_id, actor, command="import", command_id=str(new_id()))
    try:
        with open_writing(settings) as writing:
            desk = LocalImport(settings, writing, scope)
            catch_up(settings)
            if dry_run:
                return desk.preview(options, table, progress)
            return desk.run(options, table, progress)
    except LOST as failure:
        raise CommandError(
            f"The database was lost on the way ({str(failure).partition(chr(10))[0]}). What was"
            " recorded stays; a worker goes on with the rest, or the next import does."
        ) from None


class LocalImport:
    """Takes files of this machine into one workspace."""

    def __init__(self, settings: Settings, writing: Writing, scope: Scope) -> None:
        self._settings = settings
        self._log = writing.log
        self._scope = scope
        jobs = JobCommands(writing.log, clock=now, new_id=new_id)
        self._jobs = jobs
        self._imports = ImportCommands(writing.log, jobs, clock=now, new_id=new_id)
        self._environment = JobEnvironment(
            writing.log,
            writing.commands,
            work_factories(),
            summarise_error,
            clock=now,
            new_id=new_id,
        )

    def run(self, options: ImportOptions, table: SourceTable, progress: OnProgress) -> ImportResult:
        """Hand in, start, and do what no worker does."""
        self._finish_others(progress)
        plural = options.kind.PLURAL
        dated = _dated(options, table)
        import_id = self._imports.begin(self._scope, plural, table.name)
        size_bytes = hand_in(self._imports, self._scope, import_id, 1, table.source)
        looked = self._imports.look(
            self._scope,
            import_id,
            1,
            table.name,
            size_bytes,
            encoding=table.encoding,
            delimiter=table.delimiter,
        )
        self._imports.hand_in(self._scope, plural, looked, options)
        asked = self._imports.start(self._scope, import_id, dated)
        job = self._until_ended(asked.job.id, progress)
        position = catch_up(self._settings)
        return self._result(import_id, job, position)

    def preview(
        self, options: ImportOptions, table: SourceTable, progress: OnProgress
    ) -> ImportResult:
        """What `run` would do. Nothing is written, the file is not handed in."""
        total = table.rows_total
        if options.rows_max is not None:
            total = min(total, options.rows_max)
        columns, _, doubts = dated_columns(options, table)
        engine = open_import_engine(
            self._log, self._scope, READING, options, columns, new_id(), now
        )
        found = preview(
            engine,
            options,
            islice(table.rows(), total),
            doubts,
            now,
            shown_max=0,
            findings_max=FINDINGS_MAX,
            progress=lambda done: progress(done, total),
        )
        return _result_of(found)

    def _finish_others(self, progress: OnProgress) -> None:
        """An import that was cut off goes on; one that is at work is not waited for."""
        with self._log.transaction(self._scope) as connection:
            job_id = ImportStore(connection, self._scope.workspace_id).open_import(KIND)
        if job_id is None:
            return
        with (
            follow_connection(app_url(self._settings), application_name="annals-work") as claims,
            claim_job(claims, self._scope.workspace_id, job_id) as is_ours,
        ):
            if not is_ours:
                raise CommandError("Another import into this workspace is under way.")
        self._until_ended(job_id, progress)
        catch_up(self._settings)

    def _until_ended(self, job_id: UUID, progress: OnProgress) -> Job:
        try:
            with follow_connection(
                app_url(self._settings), application_name="annals-work"
            ) as claims:
                while (job := self._job(job_id)).is_open:
                    self._turn(claims, job_id)
                    progress(job.processed, job.total or 0)
        except KeyboardInterrupt:
            self._jobs.cancel(self._scope, job_id)
            raise
        progress(job.processed, job.total or 0)
        if job.status is JobStatus.FAILED:
            raise CommandError(f"The import cannot go on: {self._reason(job_id)}")
        return job

    def _turn(self, claims: Connection, job_id: UUID) -> None:
        workspace_id = self._scope.workspace_id
        with claim_job(claims, workspace_id, job_id) as is_ours:
            if is_ours:
                JobRun(self._environment, workspace_id, job_id).run(slice_s=TURN_S)
                return
        time.sleep(POLL_S)

    def _job(self, job_id: UUID) -> Job:
        with self._log.scoped(self._scope):
            return self._log.load(Job, job_id)

    def _reason(self, job_id: UUID) -> str:
        with self._log.scoped(self._scope):
            *_, last = self._log.events.get(job_id)
        return str(vars(last)["error"]["error"])

    def _result(self, import_id: UUID, job: Job, position: int) -> ImportResult:
        created, updated, skipped = (
            job.counts.get(each.value, 0)
            for each in (RowResult.CREATED, RowResult.UPDATED, RowResult.SKIPPED)
        )
        result = ImportResult(job.processed, created, updated, skipped, job.failed)
        result.position = position if created or updated else 0
        with self._log.transaction(self._scope) as connection:
            store = ImportStore(connection, self._scope.workspace_id)
            after = 0
            while page := store.findings(import_id, after, FINDINGS_PAGE):
                result.report(_finding(each) for _, each in page)
                after = page[-1][0]
        return result


def hand_in(
    imports: ImportCommands, scope: Scope, import_id: UUID, round_: int, source: SourceFile
) -> int:
    """Hand in a file of this machine; how long it is. Raises OSError."""
    size_bytes = 0
    with source.open() as file:
        parts = iter(lambda: _part(file.read), b"")
        for first in count(0, PARTS_AT_ONCE):
            some = list(islice(parts, PARTS_AT_ONCE))
            if not some:
                return size_bytes
            imports.add_parts(scope, import_id, round_, first, some)
            size_bytes += sum(map(len, some))
    return size_bytes


def _part(read: Callable[[int], bytes | None]) -> bytes:
    """The next part, whole unless the file ends."""
    part = b""
    while len(part) < PART_BYTES and (more := read(PART_BYTES - len(part))):
        part += more
    return part


def _dated(options: ImportOptions, table: SourceTable) -> DatedColumns:
    _, orders, doubts = dated_columns(options, table)
    return DatedColumns(orders, doubts)


def _result_of(found: Preview) -> ImportResult:
    results = found.tally.results
    return ImportResult(
        found.tally.rows,
        results[RowResult.CREATED],
        results[RowResult.UPDATED],
        results[RowResult.SKIPPED],
        results[RowResult.FAILED],
        found.tally.errors,
        found.tally.warnings,
        sorted(found.findings, key=lambda each: each.row),
    )


def _finding(kept: dict[str, str]) -> Finding:
    severity = Severity(kept["severity"])
    return Finding(
        int(kept["row"]), severity, kept["column"], kept["value"], kept["code"], kept["message"]
    )


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
