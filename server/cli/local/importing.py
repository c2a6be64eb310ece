"""Import a file of this machine, for the command line.

It is the same import as over HTTP: the file is uploaded into the database, and a job imports its
rows. This process runs the job, unless a worker is faster.
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

from commands.importing.cells import Lookup
from commands.importing.commands import ImportCommands
from commands.importing.deciding import RowResult, open_import_engine
from commands.importing.files import PART_BYTES, SourceFile, SourceTable, open_table
from commands.importing.issues import ImportIssue, ImportRefused
from commands.importing.job import KIND
from commands.importing.mapping import ImportOptions, columns_of, detect_date_orders
from commands.importing.preview import preview
from commands.importing.store import FIRST_ROUND, ISSUES_MAX, ImportStore
from commands.jobs.requests import JobCommands
from commands.jobs.runs import JobRun
from commands.jobs.worker import claim_job
from domain.job import Job, JobStatus
from domain.shared.text import neutralised
from eventlog.connections import follow_connection
from eventlog.scope import SYSTEM, Actor, Scope
from runtime.composition import Writing, app_url, new_id, open_writing
from runtime.settings import Settings
from runtime.work import job_environment
from runtime.work.imports import READ_TABLES
from server.cli import CommandError
from server.cli.local.database import catch_up

CONNECTION_LOST = (OperationalError, InterfaceError, psycopg.OperationalError)
REPORT_COLUMNS = ("row", "severity", "column", "value", "code", "message")
PARTS_AT_ONCE = 8
"""Parts of a file that are uploaded in one transaction."""
SLICE_S = 0.3
"""Duration of a job run, after which progress is shown."""
POLL_S = 0.1
ISSUES_PAGE = 5_000

OnProgress = Callable[[int, int], None]
"""Called with the rows done and their total."""


@dataclass
class ImportResult:
    """What an import did, or what it would do (dry run)."""

    rows: int = 0
    created: int = 0
    updated: int = 0
    skipped: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Number of errors by code."""
    warnings: Counter[str] = field(default_factory=Counter)
    """Number of warnings by code; skipped rows have none."""
    issues: list[ImportIssue] = field(default_factory=list)
    """In the order of the rows, up to `ISSUES_MAX`."""
    position: int = 0
    """A log position up to which the import is recorded; 0 if it recorded nothing."""


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
    """Import a table into a workspace, which can have one import under way.

    An interrupted import is completed first, unless this is a dry run. The projections catch up
    before the import, which reads existing entities from them, and after it. Raises `ImportRefused`
    and `CommandError`.
    """
    scope = Scope(workspace_id, actor, command="import", command_id=str(new_id()))
    try:
        with open_writing(settings) as writing:
            local_import = LocalImport(settings, writing, scope)
            catch_up(settings)
            if dry_run:
                return local_import.preview(options, table, progress)
            return local_import.run(options, table, progress)
    except CONNECTION_LOST as failure:
        raise CommandError(
            f"The connection to the database was lost ({str(failure).partition(chr(10))[0]}). What"
            " was recorded stays; a worker or the next import imports the rest."
        ) from None


class LocalImport:
    """Imports files of this machine into one workspace."""

    def __init__(self, settings: Settings, writing: Writing, scope: Scope) -> None:
        self._settings = settings
        self._log = writing.log
        self._now = writing.now
        self._scope = scope
        self._jobs = JobCommands(writing.log, clock=writing.now, new_id=new_id)
        self._imports = ImportCommands(writing.log, self._jobs, clock=writing.now, new_id=new_id)
        self._environment = job_environment(writing)

    def run(self, options: ImportOptions, table: SourceTable, progress: OnProgress) -> ImportResult:
        """Upload the file, start the job, and run it until it has ended."""
        self._finish_interrupted(progress)
        plural = options.kind.PLURAL
        orders = detect_date_orders(options, table)
        import_id = self._imports.begin_upload(self._scope, plural, table.name)
        size_bytes = upload_file(self._imports, self._scope, import_id, FIRST_ROUND, table.source)
        file = self._imports.inspect(
            self._scope,
            import_id,
            FIRST_ROUND,
            table.name,
            size_bytes,
            encoding=table.encoding,
            delimiter=table.delimiter,
        )
        self._imports.finish_upload(self._scope, plural, file, options)
        outcome = self._imports.start(self._scope, import_id, orders)
        job = self._run_job(outcome.job.id, progress)
        position = catch_up(self._settings)
        return self._load_result(import_id, job, position)

    def preview(
        self, options: ImportOptions, table: SourceTable, progress: OnProgress
    ) -> ImportResult:
        """Return what `run` would do. Nothing is written, and the file is not uploaded."""
        orders = detect_date_orders(options, table)
        columns = columns_of(options, table.columns, orders.by_column)
        engine = open_import_engine(
            self._log, self._scope, READ_TABLES, options, columns, new_id(), self._now
        )
        found = preview(
            engine,
            table,
            orders.issues,
            self._now,
            outcomes_max=0,
            issues_max=ISSUES_MAX,
            progress=progress,
        )
        return ImportResult(
            found.rows,
            found.results[RowResult.CREATED],
            found.results[RowResult.UPDATED],
            found.results[RowResult.SKIPPED],
            found.results[RowResult.FAILED],
            found.errors,
            found.warnings,
            sorted(found.issues, key=lambda each: each.row),
        )

    def _finish_interrupted(self, progress: OnProgress) -> None:
        """Complete an interrupted import. Raises `CommandError` if another process runs it."""
        with self._log.transaction(self._scope) as connection:
            job_id = ImportStore(connection, self._scope.workspace_id).open_job(KIND)
        if job_id is None:
            return
        with (
            follow_connection(app_url(self._settings), application_name="annals-work") as claims,
            claim_job(claims, self._scope.workspace_id, job_id) as is_ours,
        ):
            if not is_ours:
                raise CommandError("Another import into this workspace is under way.")
        self._run_job(job_id, progress)
        catch_up(self._settings)

    def _run_job(self, job_id: UUID, progress: OnProgress) -> Job:
        """Run the job until it has ended, or wait while a worker runs it."""
        workspace_id = self._scope.workspace_id
        try:
            with follow_connection(
                app_url(self._settings), application_name="annals-work"
            ) as claims:
                while (job := self._load_job(job_id)).is_open:
                    progress(job.processed, job.total or 0)
                    with claim_job(claims, workspace_id, job_id) as is_ours:
                        if is_ours:
                            JobRun(self._environment, workspace_id, job_id).run(slice_s=SLICE_S)
                    if not is_ours:
                        time.sleep(POLL_S)
        except KeyboardInterrupt:
            self._jobs.cancel(self._scope, job_id)
            raise
        progress(job.processed, job.total or 0)
        if job.status is JobStatus.FAILED:
            raise CommandError(f"The import failed: {self._load_failure(job_id)}")
        return job

    def _load_job(self, job_id: UUID) -> Job:
        with self._log.scoped(self._scope):
            return self._log.load(Job, job_id)

    def _load_failure(self, job_id: UUID) -> str:
        with self._log.scoped(self._scope):
            *_, last = self._log.events.get(job_id)
        return str(vars(last)["error"]["error"])

    def _load_result(self, import_id: UUID, job: Job, position: int) -> ImportResult:
        created, updated, skipped = (
            job.counts.get(each.value, 0)
            for each in (RowResult.CREATED, RowResult.UPDATED, RowResult.SKIPPED)
        )
        result = ImportResult(job.processed, created, updated, skipped, job.failed)
        result.position = position if created or updated else 0
        with self._log.transaction(self._scope) as connection:
            store = ImportStore(connection, self._scope.workspace_id)
            after = 0
            while page := store.issues(import_id, after, ISSUES_PAGE):
                result.issues += (ImportIssue.from_json(each) for _, each in page)
                after = page[-1][0]
        for each in result.issues:
            (result.errors if each.is_error else result.warnings)[each.code] += 1
        result.issues.sort(key=lambda each: each.row)
        return result


def upload_file(
    imports: ImportCommands, scope: Scope, import_id: UUID, round_: int, source: SourceFile
) -> int:
    """Upload a file of this machine; return its length in bytes. Raises OSError."""
    size_bytes = 0
    with source.open() as file:
        parts = iter(lambda: _next_part(file.read), b"")
        for first in count(0, PARTS_AT_ONCE):
            batch = list(islice(parts, PARTS_AT_ONCE))
            if not batch:
                return size_bytes
            imports.add_parts(scope, import_id, round_, first, batch)
            size_bytes += sum(map(len, batch))
    return size_bytes


def _next_part(read: Callable[[int], bytes | None]) -> bytes:
    """Read the next part, which has its full length except at the end of the file."""
    part = b""
    while len(part) < PART_BYTES and (more := read(PART_BYTES - len(part))):
        part += more
    return part


def known_values(path: Path, column: str) -> Lookup[str]:
    """Return the distinct values of a column of another file. Raises `ImportRefused`."""
    table = open_table(path)
    if column not in table.columns:
        raise ImportRefused(f"{path} has no column {column!r}.")
    return Lookup((value, value) for value in dict.fromkeys(table.values(column)))


def write_report(path: Path, issues: Iterable[ImportIssue]) -> None:
    """Write the issues to a file: JSON if its name ends in .json, else CSV. Raises OSError."""
    if path.suffix.lower() == ".json":
        rows = [asdict(each) for each in issues]
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(REPORT_COLUMNS)
        for each in issues:
            row = asdict(each)
            writer.writerow(neutralised(str(row[name])) for name in REPORT_COLUMNS)
