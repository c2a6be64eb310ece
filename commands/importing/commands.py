"""Commands on imports: upload a file, choose fields for its columns, preview it, start its job.

All that an import records carries the import's id as command id, in every round, so that one undo
takes it back. See docs/adr/0011-import.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from commands.importing.deciding import ReadTables, open_import_engine
from commands.importing.files import START, SourceTable, read_table, take_rows
from commands.importing.issues import ImportFault, ImportRefused, shorten
from commands.importing.job import KIND
from commands.importing.mapping import (
    ROW_COLUMN,
    ColumnProposal,
    DateOrders,
    ImportOptions,
    columns_of,
    detect_date_orders,
    kind_of,
    propose,
)
from commands.importing.preview import Preview, preview
from commands.importing.store import (
    FailedRow,
    ImportStore,
    StoredFile,
    StoredImport,
    options_as_json,
    options_from_json,
    stored_table,
    uploaded_file,
)
from commands.jobs.requests import JobCommands, JobOutcome
from domain.job import Job
from domain.shared.refusals import NotFound, Refusal, StaleVersion
from eventlog.locks import IMPORT_START_LOCK
from eventlog.scope import Scope
from eventlog.store.log import EventLog

SAMPLE_ROWS = 200
"""Number of rows whose values are examined to propose fields."""
EXAMPLES_MAX = 3

# No other import starts in the workspace until the transaction ends.
LOCK_STARTS = f"SELECT pg_advisory_xact_lock({IMPORT_START_LOCK}, hashtext(%s))"


@dataclass
class ImportUnderWay(Refusal):
    """Another import into this workspace is under way."""

    job_id: UUID


@dataclass
class ImportStarted(Refusal):
    """The import was started already."""

    job_id: UUID


@dataclass
class NoFailedRows(Refusal):
    """The import has no failed rows, or it has not ended yet."""

    import_id: UUID


@dataclass(frozen=True)
class InspectedFile:
    """An uploaded file, how to read it, and sample values of every column."""

    import_id: UUID
    round: int
    table: SourceTable
    samples: Mapping[str, Sequence[str]]

    def as_stored(self) -> StoredFile:
        """The file as it is stored."""
        table = self.table
        return StoredFile(
            self.round,
            table.source.size_bytes,
            table.encoding,
            table.delimiter,
            table.columns,
            table.rows_total,
            None,
        )


class ImportCommands:
    """Handles imports. Thread-safe; clock and ids are passed in."""

    def __init__(
        self,
        log: EventLog,
        jobs: JobCommands,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
    ) -> None:
        self._log = log
        self._jobs = jobs
        self._clock = clock
        self._new_id = new_id

    # Upload

    def begin_upload(self, scope: Scope, plural: str, file_name: str) -> UUID:
        """Create an import, whose file is uploaded next. Raises `ImportRefused`."""
        kind_of(plural)
        import_id = self._new_id()
        with self._log.transaction(scope) as connection:
            ImportStore(connection, scope.workspace_id).insert(import_id, plural, file_name)
        return import_id

    def begin_corrections(self, scope: Scope, import_id: UUID) -> int:
        """Begin a round, whose file of corrected rows is uploaded next, and return its number.

        Raises `NotFound`.
        """
        with self._log.transaction(scope) as connection:
            store = ImportStore(connection, scope.workspace_id)
            _lock(store, import_id)
            return store.insert_file(import_id)

    def add_parts(
        self, scope: Scope, import_id: UUID, round_: int, first: int, parts: Iterable[bytes]
    ) -> None:
        """Store parts of `PART_BYTES` (the last may be shorter); `first` is the first's number."""
        with self._log.transaction(scope) as connection:
            ImportStore(connection, scope.workspace_id).add_parts(import_id, round_, first, parts)

    def inspect(
        self,
        scope: Scope,
        import_id: UUID,
        round_: int,
        name: str,
        size_bytes: int,
        *,
        encoding: str | None = None,
        delimiter: str | None = None,
    ) -> InspectedFile:
        """Inspect a file whose parts are stored. Raises `ImportRefused`."""
        source = uploaded_file(self._log, scope, import_id, round_, name, size_bytes)
        table = read_table(source, encoding=encoding, delimiter=delimiter)
        samples: dict[str, list[str]] = {name: [] for name in table.columns}
        for row in take_rows(table.rows(), START, SAMPLE_ROWS):
            for column, cell in row.cells.items():
                if value := cell.strip():
                    samples[column].append(shorten(value))
        return InspectedFile(import_id, round_, table, samples)

    def inspect_again(
        self, scope: Scope, import_id: UUID, *, encoding: str | None, delimiter: str | None
    ) -> InspectedFile:
        """Inspect the first file, read differently. Raises `NotFound`, `ImportRefused`."""
        stored = self.get(scope, import_id)
        file = stored.files[0]
        return self.inspect(
            scope,
            import_id,
            file.round,
            stored.file_name,
            file.size_bytes,
            encoding=encoding or file.encoding,
            delimiter=delimiter or (file.delimiter if encoding is None else None),
        )

    def finish_upload(
        self, scope: Scope, plural: str, file: InspectedFile, options: ImportOptions | None = None
    ) -> StoredImport:
        """Store the options; without any, the columns become the proposed fields.

        Raises `ImportRefused`.
        """
        kind = kind_of(plural)
        proposals = propose(kind, file.samples)
        if options is None:
            options = ImportOptions(kind, {name: each.field for name, each in proposals.items()})
        columns_of(options, file.table.columns)
        columns = _columns_as_json(file.samples, proposals)
        with self._log.transaction(scope) as connection:
            store = ImportStore(connection, scope.workspace_id)
            store.set_file(file.import_id, file.as_stored())
            store.set_name(file.import_id, file.table.name)
            store.set_options(file.import_id, options_as_json(options), columns)
            return _require(store, file.import_id)

    def discard_upload(self, scope: Scope, import_id: UUID, round_: int) -> None:
        """Delete a file whose upload did not end."""
        with self._log.transaction(scope) as connection:
            ImportStore(connection, scope.workspace_id).delete_unfinished(import_id, round_)

    # Change

    def change_options(
        self,
        scope: Scope,
        import_id: UUID,
        change: Callable[[StoredImport], Mapping[str, Any]],
        file: InspectedFile | None = None,
        *,
        expected_version: int | None = None,
    ) -> StoredImport:
        """Set the options to what `change` returns as JSON.

        If the file is read differently (`file`), new fields are proposed first. Raises `NotFound`,
        `StaleVersion`, `ImportStarted`, `ImportRefused`.
        """
        with self._log.transaction(scope) as connection:
            store = ImportStore(connection, scope.workspace_id)
            stored = _lock(store, import_id, expected_version)
            _require_not_started(stored)
            if file is not None:
                store.set_file(import_id, file.as_stored())
                proposals = propose(kind_of(stored.kind), file.samples)
                mapping = {name: each.field for name, each in proposals.items()}
                stored = replace(
                    stored,
                    columns=_columns_as_json(file.samples, proposals),
                    options={**stored.options, "mapping": mapping},
                )
            options = options_from_json(stored.kind, change(stored))
            columns_of(options, [each["name"] for each in stored.columns])
            store.set_options(import_id, options_as_json(options), stored.columns)
            return _require(store, import_id)

    def delete(self, scope: Scope, import_id: UUID, *, expected_version: int | None = None) -> None:
        """Delete the file and what is stored with it; what was imported stays.

        Raises `NotFound`, `StaleVersion`, `ImportUnderWay`.
        """
        with self._log.transaction(scope) as connection:
            store = ImportStore(connection, scope.workspace_id)
            job = self._job_of(_lock(store, import_id, expected_version))
            if job is not None and job.is_open:
                raise ImportUnderWay(job.id)
            store.delete(import_id)

    # Read

    def get(self, scope: Scope, import_id: UUID) -> StoredImport:
        """The import. Raises `NotFound`."""
        with self._log.transaction(scope) as connection:
            return _require(ImportStore(connection, scope.workspace_id), import_id)

    def get_with_job(self, scope: Scope, import_id: UUID) -> tuple[StoredImport, Job | None]:
        """The import and the job of its last file. Raises `NotFound`."""
        with self._log.transaction(scope) as connection:
            stored = _require(ImportStore(connection, scope.workspace_id), import_id)
            return stored, self._job_of(stored)

    def latest(self, scope: Scope, limit: int) -> list[StoredImport]:
        """The imports that were uploaded last."""
        with self._log.transaction(scope) as connection:
            return ImportStore(connection, scope.workspace_id).latest(limit)

    def failed_rows(
        self, scope: Scope, import_id: UUID, after_row: int, limit: int
    ) -> list[FailedRow]:
        """Rows that failed and were not corrected, in order, beginning after this one."""
        with self._log.transaction(scope) as connection:
            store = ImportStore(connection, scope.workspace_id)
            return store.failed_rows(import_id, after_row, limit)

    def issues(
        self, scope: Scope, import_id: UUID, after: int, limit: int
    ) -> list[tuple[int, dict[str, Any]]]:
        """Issues of rows as JSON, each with its number. Raises `NotFound`."""
        with self._log.transaction(scope) as connection:
            store = ImportStore(connection, scope.workspace_id)
            _require(store, import_id)
            return store.issues(import_id, after, limit)

    def preview(
        self, scope: Scope, tables: ReadTables, import_id: UUID, *, rows_max: int, outcomes_max: int
    ) -> Preview:
        """What the first rows would do. Raises `NotFound`, `ImportRefused`."""
        stored, orders = self.detect_dates(scope, import_id)
        options = options_from_json(stored.kind, stored.options)
        table = stored_table(self._log, scope, stored, stored.files[0])
        columns = columns_of(options, table.columns, orders.by_column)
        engine = open_import_engine(
            self._log, scope, tables, options, columns, import_id, self._clock
        )
        return preview(
            engine,
            table,
            orders.issues,
            self._clock,
            rows_max=rows_max,
            outcomes_max=outcomes_max,
            issues_max=0,
        )

    def detect_dates(self, scope: Scope, import_id: UUID) -> tuple[StoredImport, DateOrders]:
        """The import, and how its dates are written: the whole file may be read for that.

        Raises `NotFound`, `ImportRefused`.
        """
        stored = self.get(scope, import_id)
        options = options_from_json(stored.kind, stored.options)
        table = stored_table(self._log, scope, stored, stored.files[0])
        return stored, detect_date_orders(options, table)

    # Run

    def start(self, scope: Scope, import_id: UUID, orders: DateOrders) -> JobOutcome:
        """Request a job for the rows of the first file; `orders` are from `detect_dates`.

        Raises `NotFound`, `ImportStarted`, `ImportUnderWay`.
        """
        with self._log.transaction(scope) as connection:
            connection.execute(LOCK_STARTS, (str(scope.workspace_id),))
            store = ImportStore(connection, scope.workspace_id)
            stored = _lock(store, import_id)
            _require_not_started(stored)
            by_column = {name: order.value for name, order in orders.by_column.items()}
            store.set_orders(import_id, by_column)
            store.add_issues(import_id, orders.issues)
            return self._request_job(store, scope, stored, stored.files[0], by_column)

    def resume(self, scope: Scope, corrections: InspectedFile) -> JobOutcome:
        """Request a job for corrected rows; rows that succeeded before are left out.

        Raises `NotFound`, `NoFailedRows`, `ImportUnderWay`, `ImportRefused`.
        """
        with self._log.transaction(scope) as connection:
            connection.execute(LOCK_STARTS, (str(scope.workspace_id),))
            store = ImportStore(connection, scope.workspace_id)
            stored = _lock(store, corrections.import_id)
            job = self._job_of(stored)
            if job is None or job.is_open or not stored.failed_rows:
                raise NoFailedRows(stored.id)
            _require_columns(stored, corrections.table)
            file = corrections.as_stored()
            store.set_file(stored.id, file)
            return self._request_job(store, scope, stored, file, stored.orders)

    def _request_job(
        self,
        store: ImportStore,
        scope: Scope,
        stored: StoredImport,
        file: StoredFile,
        orders: Mapping[str, str],
    ) -> JobOutcome:
        under_way = store.open_job(KIND)
        if under_way is not None:
            raise ImportUnderWay(under_way)
        rows_max = stored.options.get("rowsMax")
        outcome = self._jobs.request(
            replace(
                scope, command_id=str(stored.id), extra={**scope.extra, "file": stored.file_name}
            ),
            KIND,
            {
                "importId": str(stored.id),
                "plural": stored.kind,
                "round": file.round,
                "orders": dict(orders),
                "seen": self._log.taken_position(),
            },
            total=file.rows if rows_max is None else min(file.rows, rows_max),
        )
        store.set_job(stored.id, file.round, outcome.job.id)
        return outcome

    def _job_of(self, stored: StoredImport) -> Job | None:
        return self._log.load(Job, stored.last_job_id) if stored.last_job_id else None


def _require(store: ImportStore, import_id: UUID) -> StoredImport:
    stored = store.find(import_id)
    if stored is None:
        raise NotFound("import", import_id)
    return stored


def _lock(store: ImportStore, import_id: UUID, expected: int | None = None) -> StoredImport:
    """Lock the import until the end of the transaction. Raises `NotFound`, `StaleVersion`."""
    store.lock(import_id)
    stored = _require(store, import_id)
    if expected is not None and stored.version != expected:
        raise StaleVersion(stored.id, expected, stored.version)
    return stored


def _require_not_started(stored: StoredImport) -> None:
    job_id = stored.files[0].job_id
    if job_id is not None:
        raise ImportStarted(job_id)


def _require_columns(stored: StoredImport, table: SourceTable) -> None:
    missing = [name for name in (ROW_COLUMN, *stored.files[0].columns) if name not in table.columns]
    if missing:
        raise ImportRefused(
            f"The file of corrections lacks {', '.join(missing)}: it must have the columns of the"
            " failed rows as they were downloaded.",
            ImportFault.NO_TABLE,
        )


def _columns_as_json(
    samples: Mapping[str, Sequence[str]], proposals: Mapping[str, ColumnProposal]
) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "examples": list(dict.fromkeys(values))[:EXAMPLES_MAX],
            "proposed": proposals[name].field,
            "why": proposals[name].why.value,
        }
        for name, values in samples.items()
    ]
