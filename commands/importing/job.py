"""An import as a job: each step takes the next rows and records them with the job's progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID

from commands.importing.ahead import (
    BATCH_ROWS,
    PlannedBatch,
    PlannerProcess,
    PlanningTask,
    can_plan_ahead,
)
from commands.importing.cells import DateOrder
from commands.importing.deciding import (
    ImportEngine,
    ReadTables,
    RowOutcome,
    RowResult,
    open_import_engine,
)
from commands.importing.files import START, FilePlace, SourceRow, SourceTable, take_rows
from commands.importing.issues import ImportFault, ImportIssue, ImportRefused, error, warning
from commands.importing.mapping import ROW_COLUMN, columns_of
from commands.importing.rows import PlannedRow
from commands.importing.store import (
    FIRST_ROUND,
    FailedRow,
    ImportStore,
    options_from_json,
    stored_table,
)
from commands.jobs.work import JobContext, JobWork
from domain.job import ItemError, JobStep
from domain.shared.entity import Entity
from domain.shared.text import storable, without_neutraliser
from eventlog.clock import local_time

KIND = "import"


@dataclass(frozen=True)
class PreparedImport:
    """What all runs of a job share, because it does not change while the job runs."""

    import_id: UUID
    round: int
    columns: Sequence[str]
    """The columns of the first file."""
    table: SourceTable
    engine: ImportEngine
    total: int
    process: PlannerProcess | None
    """Plans rows in another process, if there are enough of them."""


def prepare_import(
    context: JobContext, tables: ReadTables, prepare_process: Callable[[], None]
) -> PreparedImport:
    """Read what the job needs. Its parameters are `{importId, plural, round, orders, seen}`.

    The read tables have to have reached the position `seen`. prepare_process: called in another
    process before it plans rows. Raises `ImportRefused` if the file was deleted or cannot be read.
    """
    parameters = context.parameters
    import_id = UUID(parameters["importId"])
    with context.log.transaction(context.scope) as connection:
        stored = ImportStore(connection, context.scope.workspace_id).find(import_id)
    if stored is None:
        raise ImportRefused("The file was deleted.", ImportFault.UNREADABLE)
    file = next(each for each in stored.files if each.round == parameters["round"])
    options = options_from_json(stored.kind, stored.options)
    orders = {name: DateOrder(order) for name, order in parameters["orders"].items()}
    columns = columns_of(options, stored.files[0].columns, orders)
    engine = open_import_engine(
        context.log, context.scope, tables, options, columns, import_id, context.clock
    )
    total = file.rows if options.rows_max is None else min(file.rows, options.rows_max)
    table = stored_table(context.log, context.scope, stored, file)
    process = None
    directory = engine.planner.directory
    if file.round == FIRST_ROUND and can_plan_ahead(total, directory):
        clock_ahead = context.clock() - local_time()
        task = PlanningTask(
            stored.file_name, file, options, columns, directory, clock_ahead, prepare_process
        )
        process = PlannerProcess(task, partial(_read_part, context, import_id))
    original = stored.files[0].columns
    return PreparedImport(import_id, file.round, original, table, engine, total, process)


def _read_part(context: JobContext, import_id: UUID, number: int) -> bytes:
    with context.log.transaction(context.scope) as connection:
        store = ImportStore(connection, context.scope.workspace_id)
        return store.part(import_id, FIRST_ROUND, number)


class ImportWork(JobWork):
    """Imports the rows of one file in order. The cursor says where the next row begins."""

    LIMIT = BATCH_ROWS

    def __init__(self, context: JobContext, prepared: PreparedImport) -> None:
        super().__init__(context)
        self._prepared = prepared
        self._rows: Iterator[SourceRow] = iter(())
        self._place: FilePlace | None = None
        """The place of `_rows` in the file."""

    def step(self, cursor: Any, limit: int) -> JobStep:
        """Plan, decide and record the next rows, and store those that failed."""
        at, context, engine = _Cursor.from_json(cursor), self.context, self._prepared.engine
        rows_left = self._prepared.total - at.taken
        with context.log.transaction(context.scope) as connection:
            store = ImportStore(connection, context.scope.workspace_id)
            batch, left_out = self._plan(at.place, min(limit, rows_left), rows_left, store)
            decided = engine.decide(batch.rows, engine.records(connection), context.clock())
            after = _Cursor(batch.end, at.taken + len(batch.rows) + len(left_out))
            step = self._save(store, after, decided.outcomes, left_out)
            # Last: followers of the log wait from here to the end of the transaction.
            decided.entities.append()
        return step

    def skip(self, cursor: Any, failure: Exception) -> JobStep:
        """Store the next row as failed, as it cannot be recorded."""
        at, context = _Cursor.from_json(cursor), self.context
        rows = self._read(at.place, 1)
        message = f"It could not be recorded: {context.summarise_error(failure).error}"
        with context.log.transaction(context.scope) as connection:
            store = ImportStore(connection, context.scope.workspace_id)
            selected, left_out = self._select(rows, store)
            outcomes = [_not_recorded(row, message) for row in selected]
            after = _Cursor(rows[-1].end if rows else at.place, at.taken + len(rows))
            return self._save(store, after, outcomes, left_out)

    def _plan(
        self, place: FilePlace, limit: int, rows_left: int, store: ImportStore
    ) -> tuple[PlannedBatch, list[ImportIssue]]:
        """The next rows, planned, and issues for those that are left out."""
        process = self._prepared.process
        if process and (batch := process.take(place, limit, rows_left)):
            return batch, []
        rows = self._read(place, limit)
        selected, left_out = self._select(rows, store)
        planned = [self._prepared.engine.planner.plan(row) for row in selected]
        return PlannedBatch(planned, rows[-1].end if rows else place), left_out

    def _read(self, place: FilePlace, limit: int) -> list[SourceRow]:
        if place != self._place:
            self._rows = self._prepared.table.rows(place)
        self._place = None  # unknown if reading fails
        rows = list(take_rows(self._rows, place, limit))
        self._place = rows[-1].end if rows else place
        return rows

    def _select(
        self, rows: list[SourceRow], store: ImportStore
    ) -> tuple[list[SourceRow], list[ImportIssue]]:
        """The rows to import, and issues for the others.

        All rows of the first file; of corrections those that failed, by their numbers in the first
        file.
        """
        if self._prepared.round == FIRST_ROUND:
            return rows, []
        numbers = [_original_number(row) for row in rows]
        failed = store.failed_among(self._prepared.import_id, list(filter(None, numbers)))
        wanted: list[SourceRow] = []
        issues: list[ImportIssue] = []
        for row, number in zip(rows, numbers, strict=True):
            if number in failed:
                failed.discard(number)
                cells = {name: row.cells.get(name, "") for name in self._prepared.columns}
                wanted.append(replace(row, number=number, cells=cells))
            else:
                message = "No failed row has this number: the row is left out."
                given = row.cells.get(ROW_COLUMN, "")
                issues.append(warning(row.number, ROW_COLUMN, given, "not_failed", message))
        return wanted, issues

    def _save(
        self,
        store: ImportStore,
        at: _Cursor,
        outcomes: Sequence[RowOutcome],
        left_out: Sequence[ImportIssue],
    ) -> JobStep:
        """Save failed rows and issues; return the progress.

        `left_out` has an issue for each row that was not selected.
        """
        import_id = self._prepared.import_id
        issues = [*left_out, *(issue for each in outcomes for issue in each.reported)]
        failed = [each for each in outcomes if each.result is RowResult.FAILED]
        if self._prepared.round != FIRST_ROUND:
            fixed = [each.row.number for each in outcomes if each.result is not RowResult.FAILED]
            store.remove_failed_rows(import_id, fixed)
        store.add_failed_rows(import_id, map(_failed_row, failed))
        store.add_issues(import_id, issues)
        results = Counter(each.result for each in outcomes)
        results[RowResult.SKIPPED] += len(left_out)
        return JobStep(
            cursor=at.as_json(),
            succeeded=results.total() - len(failed),
            failed=len(failed),
            errors=[_item_error(each) for each in issues if each.is_error],
            done=at.taken >= self._prepared.total or not results.total(),
            counts={
                **{name.value: results[name] for name in RowResult if name is not RowResult.FAILED},
                "warnings": sum(not each.is_error for each in issues),
            },
            total=self._prepared.total,
        )


@dataclass(frozen=True)
class _Cursor:
    """The progress of an import: where the next row begins, and how many rows were taken."""

    place: FilePlace = START
    taken: int = 0

    @classmethod
    def from_json(cls, cursor: Any) -> _Cursor:
        if cursor is None:
            return cls()
        return cls(FilePlace(cursor["byte"], cursor["record"]), cursor["taken"])

    def as_json(self) -> dict[str, int]:
        return {"byte": self.place.byte, "record": self.place.record, "taken": self.taken}


def _original_number(row: SourceRow) -> int | None:
    """The number that a corrected row had in the first file."""
    text = row.cells.get(ROW_COLUMN, "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _failed_row(outcome: RowOutcome) -> FailedRow:
    """The row as it was in the file, without the escapes of our own exports.

    What PostgreSQL cannot store is replaced, so that every row can be stored as failed.
    """
    cells = {name: storable(without_neutraliser(cell)) for name, cell in outcome.row.cells.items()}
    issues = [each.as_json() for each in outcome.issues if each.is_error]
    return FailedRow(outcome.row.number, cells, issues)


def _not_recorded(row: SourceRow, message: str) -> RowOutcome:
    """The outcome of a row that cannot be recorded. It is not planned, as planning may fail."""
    issue = error(row.number, "", "", "not_recorded", message)
    planned = PlannedRow(row.number, Entity, None, (), (issue,), {}, row.cells)
    return RowOutcome(planned, RowResult.FAILED, planned.issues)


def _item_error(issue: ImportIssue) -> ItemError:
    facts = {"column": issue.column, "value": issue.value}
    return ItemError(issue.row, issue.message, issue.code, facts)
