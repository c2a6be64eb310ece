"""Imports: a file is handed in, looked at, its columns are given fields, and a job takes its rows.

What an import records carries its id as command id, in every round: by it all is undone as one.
See docs/adr/0011-import.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from commands.importing.cells import DateOrder
from commands.importing.dates import with_orders
from commands.importing.findings import Finding, ImportFault, ImportRefused
from commands.importing.options import ROW_COLUMN, ImportOptions, columns_of, kind_of
from commands.importing.proposing import ColumnProposal, propose
from commands.importing.running import Preview, Reading, dated_columns, open_import_engine, preview
from commands.importing.store import (
    Failure,
    ImportStore,
    PartsOfFile,
    StoredFile,
    StoredImport,
    options_as_json,
    options_of,
)
from commands.importing.tables import SourceTable, read_table
from commands.importing.work import KIND, table_of
from commands.jobs.requests import JobCommands, JobOutcome
from domain.job import Job
from domain.shared.refusals import NotFound, Refusal, StaleVersion
from eventlog.locks import IMPORT_START_LOCK
from eventlog.scope import Scope
from eventlog.store.log import EventLog

EXAMPLE_ROWS = 200
"""So many rows are looked at for what a column may be."""
EXAMPLES_MAX = 3

# No other import starts in the workspace until the transaction ends.
HOLD_STARTS = f"SELECT pg_advisory_xact_lock({IMPORT_START_LOCK}, hashtext(%s))"


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
    """No row of this import failed, or it has not ended yet."""

    import_id: UUID


@dataclass(frozen=True)
class Looked:
    """A file that was handed in whole: how it is to be read, and examples of every column."""

    import_id: UUID
    round: int
    table: SourceTable
    examples: Mapping[str, Sequence[str]]

    def stored(self) -> StoredFile:
        """As it is kept."""
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


@dataclass(frozen=True)
class DatedColumns:
    """The order of the dates in each column of a file, and what is doubtful about it."""

    orders: Mapping[str, str]
    doubts: Sequence[Finding]

    @property
    def of_columns(self) -> dict[str, DateOrder]:
        """The orders by column."""
        return {name: DateOrder(order) for name, order in self.orders.items()}


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

    # Handing in

    def begin(self, scope: Scope, plural: str, file_name: str) -> UUID:
        """A new import, whose file is to be handed in. Raises `ImportRefused`."""
        kind_of(plural)
        import_id = self._new_id()
        with self._log.transaction(scope) as connection:
            ImportStore(connection, scope.workspace_id).begin(import_id, plural, file_name)
        return import_id

    def begin_round(self, scope: Scope, import_id: UUID) -> int:
        """A file with mended rows is to be handed in; its round. Raises `NotFound`."""
        with self._log.transaction(scope) as connection:
            store = ImportStore(connection, scope.workspace_id)
            store.hold(import_id)
            self._require(store, import_id)
            return store.begin_file(import_id)

    def add_parts(
        self, scope: Scope, import_id: UUID, round_: int, first: int, parts: Iterable[bytes]
    ) -> None:
        """Parts of the file, `first` the number of the first. All but the last are full."""
        with self._log.transaction(scope) as connection:
            ImportStore(connection, scope.workspace_id).add_parts(import_id, round_, first, parts)

    def look(
        self,
        scope: Scope,
        import_id: UUID,
        round_: int,
        name: str,
        size_bytes: int,
        *,
        encoding: str | None = None,
        delimiter: str | None = None,
    ) -> Looked:
        """Look at a file that was handed in. Raises `ImportRefused`."""

        def read_part(number: int) -> bytes:
            with self._log.transaction(scope) as connection:
                return ImportStore(connection, scope.workspace_id).part(import_id, round_, number)

        source = PartsOfFile(name, size_bytes, read_part)
        table = read_table(source, encoding=encoding, delimiter=delimiter)
        return Looked(import_id, round_, table, _examples(table))

    def look_again(
        self, scope: Scope, import_id: UUID, *, encoding: str | None, delimiter: str | None
    ) -> Looked:
        """Look at the first file once more, read otherwise. Raises `NotFound`, `ImportRefused`."""
        stored, _ = self.get(scope, import_id)
        file = stored.files[0]
        return self.look(
            scope,
            import_id,
            file.round,
            stored.file_name,
            file.size_bytes,
            encoding=encoding or file.encoding,
            delimiter=delimiter or (file.delimiter if encoding is None else None),
        )

    def hand_in(
        self, scope: Scope, plural: str, looked: Looked, options: ImportOptions | None = None
    ) -> StoredImport:
        """The file is there. Without options its columns get the fields that they probably are.

        Raises `ImportRefused`.
        """
        kind = kind_of(plural)
        proposals = propose(kind, looked.examples)
        if options is None:
            options = ImportOptions(kind, {name: each.field for name, each in proposals.items()})
        columns_of(options, looked.table.columns)
        with self._log.transaction(scope) as connection:
            store = ImportStore(connection, scope.workspace_id)
            store.set_file(looked.import_id, looked.stored())
            store.set_name(looked.import_id, looked.table.name)
            columns = _columns(looked.examples, proposals)
            store.set_options(looked.import_id, options_as_json(options), columns)
            return self._require(store, looked.import_id)

    def change(
        self,
        scope: Scope,
        import_id: UUID,
        change: Callable[[StoredImport], Mapping[str, Any]],
        looked: Looked | None = None,
        *,
        expected_version: int | None = None,
    ) -> StoredImport:
        """Make the options be what `change` makes of them, as JSON.

        Where the file is to be read as `looked`, fields are proposed anew before. Raises
        `NotFound`, `StaleVersion`, `ImportStarted`, `ImportRefused`.
        """
        with self._log.transaction(scope) as connection:
            store = ImportStore(connection, scope.workspace_id)
            store.hold(import_id)
            stored = self._require(store, import_id)
            _require_version(stored, expected_version)
            _require_not_started(stored)
            if looked is not None:
                store.set_file(import_id, looked.stored())
                proposals = propose(kind_of(stored.kind), looked.examples)
                mapping = {name: each.field for name, each in proposals.items()}
                stored = replace(
                    stored,
                    columns=_columns(looked.examples, proposals),
                    options={**stored.options, "mapping": mapping},
                )
            options = options_of(stored.kind, change(stored))
            columns_of(options, [each["name"] for each in stored.columns])
            store.set_options(import_id, options_as_json(options), stored.columns)
            return self._require(store, import_id)

    def drop(self, scope: Scope, import_id: UUID, *, expected_version: int | None = None) -> None:
        """Forget the file and what is kept with it.

        Raises `NotFound`, `StaleVersion`, `ImportUnderWay`.
        """
        with self._log.transaction(scope) as connection:
            store = ImportStore(connection, scope.workspace_id)
            store.hold(import_id)
            stored = self._require(store, import_id)
            _require_version(stored, expected_version)
            job = self._last_job(stored)
            if job is not None and job.is_open:
                raise ImportUnderWay(job.id)
            store.delete(import_id)

    def give_up(self, scope: Scope, import_id: UUID, round_: int) -> None:
        """A file that was being handed in is not wanted."""
        with self._log.transaction(scope) as connection:
            ImportStore(connection, scope.workspace_id).give_up(import_id, round_)

    # Reading

    def get(self, scope: Scope, import_id: UUID) -> tuple[StoredImport, Job | None]:
        """The import, and the job that takes its last file. Raises `NotFound`."""
        with self._log.transaction(scope) as connection:
            stored = self._require(ImportStore(connection, scope.workspace_id), import_id)
            return stored, self._last_job(stored)

    def latest(self, scope: Scope, limit: int) -> list[StoredImport]:
        """The imports that were handed in last."""
        with self._log.transaction(scope) as connection:
            return ImportStore(connection, scope.workspace_id).latest(limit)

    def failures(self, scope: Scope, import_id: UUID, after_row: int, limit: int) -> list[Failure]:
        """Rows that failed and were not mended, in order, from the one behind this on."""
        with self._log.transaction(scope) as connection:
            return ImportStore(connection, scope.workspace_id).failures(import_id, after_row, limit)

    def findings(
        self, scope: Scope, import_id: UUID, after: int, limit: int
    ) -> list[tuple[int, dict[str, Any]]]:
        """What there was to say about rows, each with its number. Raises `NotFound`."""
        with self._log.transaction(scope) as connection:
            store = ImportStore(connection, scope.workspace_id)
            self._require(store, import_id)
            return store.findings(import_id, after, limit)

    def preview(
        self, scope: Scope, reading: Reading, import_id: UUID, *, rows_max: int, shown_max: int
    ) -> Preview:
        """What would come of the first rows. Nothing is recorded. Raises as `dated`."""
        stored, dated = self.dated(scope, import_id)
        options = options_of(stored.kind, stored.options)
        table = table_of(self._log, scope, stored, stored.files[0])
        columns = with_orders(columns_of(options, table.columns), dated.of_columns)
        engine = open_import_engine(
            self._log, scope, reading, options, columns, import_id, self._clock
        )
        rows = islice(table.rows(), min(rows_max, options.rows_max or rows_max))
        return preview(
            engine, options, rows, dated.doubts, self._clock, shown_max=shown_max, findings_max=0
        )

    def dated(self, scope: Scope, import_id: UUID) -> tuple[StoredImport, DatedColumns]:
        """The import, and the orders of its dates, for which the whole file may be read.

        Raises `NotFound`, `ImportRefused`.
        """
        stored, _ = self.get(scope, import_id)
        options = options_of(stored.kind, stored.options)
        table = table_of(self._log, scope, stored, stored.files[0])
        _, orders, doubts = dated_columns(options, table)
        return stored, DatedColumns(orders, doubts)

    # Going

    def start(self, scope: Scope, import_id: UUID, dated: DatedColumns) -> JobOutcome:
        """A job takes the rows of the first file.

        Raises `NotFound`, `ImportStarted`, `ImportUnderWay`.
        """
        with self._log.transaction(scope) as connection:
            connection.execute(HOLD_STARTS, (str(scope.workspace_id),))
            store = ImportStore(connection, scope.workspace_id)
            store.hold(import_id)
            stored = self._require(store, import_id)
            _require_not_started(stored)
            store.set_orders(import_id, dated.orders)
            store.add_findings(import_id, dated.doubts)
            return self._request(store, scope, stored, stored.files[0], dated.orders)

    def resume(self, scope: Scope, looked: Looked) -> JobOutcome:
        """A job takes mended rows; those that succeeded before are not done again.

        Raises `NotFound`, `NoFailedRows`, `ImportUnderWay`, `ImportRefused`.
        """
        with self._log.transaction(scope) as connection:
            connection.execute(HOLD_STARTS, (str(scope.workspace_id),))
            store = ImportStore(connection, scope.workspace_id)
            store.hold(looked.import_id)
            stored = self._require(store, looked.import_id)
            self._require_mendable(stored)
            _require_columns(stored, looked.table)
            file = looked.stored()
            store.set_file(stored.id, file)
            return self._request(store, scope, stored, file, stored.orders)

    def _request(
        self,
        store: ImportStore,
        scope: Scope,
        stored: StoredImport,
        file: StoredFile,
        orders: Mapping[str, str],
    ) -> JobOutcome:
        under_way = store.open_import(KIND)
        if under_way is not None:
            raise ImportUnderWay(under_way)
        extra = {**scope.extra, "file": stored.file_name}
        most = stored.options.get("rowsMax")
        outcome = self._jobs.request(
            replace(scope, command_id=str(stored.id), extra=extra),
            KIND,
            {
                "importId": str(stored.id),
                "plural": stored.kind,
                "round": file.round,
                "orders": dict(orders),
                "seen": self._log.taken_position(),
            },
            total=file.rows if most is None else min(file.rows, most),
        )
        store.set_job(stored.id, file.round, outcome.job.id)
        return outcome

    def _require(self, store: ImportStore, import_id: UUID) -> StoredImport:
        stored = store.find(import_id)
        if stored is None:
            raise NotFound("import", import_id)
        return stored

    def _require_mendable(self, stored: StoredImport) -> None:
        job = self._last_job(stored)
        if job is None or job.is_open or not stored.failed_rows:
            raise NoFailedRows(stored.id)

    def _last_job(self, stored: StoredImport) -> Job | None:
        jobs = [file.job_id for file in stored.files if file.job_id is not None]
        return self._log.load(Job, jobs[-1]) if jobs else None


def _require_not_started(stored: StoredImport) -> None:
    job_id = stored.files[0].job_id
    if job_id is not None:
        raise ImportStarted(job_id)


def _require_version(stored: StoredImport, expected: int | None) -> None:
    if expected is not None and stored.version != expected:
        raise StaleVersion(stored.id, expected, stored.version)


def _require_columns(stored: StoredImport, table: SourceTable) -> None:
    missing = [name for name in (ROW_COLUMN, *stored.files[0].columns) if name not in table.columns]
    if missing:
        raise ImportRefused(
            f"The file of mended rows lacks {', '.join(missing)}: it has the columns of the failed"
            " rows as they were given out.",
            ImportFault.NO_TABLE,
        )


def _examples(table: SourceTable) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in table.columns}
    for row in islice(table.rows(), EXAMPLE_ROWS):
        for name, cell in row.cells.items():
            if value := cell.strip():
                found[name].append(value)
    return found


def _columns(
    examples: Mapping[str, Sequence[str]], proposals: Mapping[str, ColumnProposal]
) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "examples": list(dict.fromkeys(values))[:EXAMPLES_MAX],
            "proposed": proposals[name].field,
            "why": proposals[name].why.value,
        }
        for name, values in examples.items()
    ]
