"""The rows of an import as a job: each step takes some rows, and is recorded with its progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any
from uuid import UUID

from commands.importing.cells import DateOrder
from commands.importing.dates import with_orders
from commands.importing.deciding import RowOutcome, RowResult
from commands.importing.findings import Finding, ImportFault, ImportRefused, error, warning
from commands.importing.options import ROW_COLUMN, columns_of
from commands.importing.planning import ImportedRow
from commands.importing.running import (
    BATCH_ROWS,
    ImportEngine,
    Reading,
    open_import_engine,
    worth_saying,
)
from commands.importing.store import (
    Failure,
    ImportStore,
    PartsOfFile,
    StoredFile,
    StoredImport,
    finding_as_json,
    options_of,
)
from commands.importing.tables import START, FilePlace, SourceRow, SourceTable
from commands.jobs.work import JobContext, JobWork
from domain.job import ItemError, JobStep
from domain.shared.cells import without_neutraliser
from domain.shared.entity import Entity
from eventlog.scope import Scope
from eventlog.store.log import EventLog

KIND = "import"

FIRST = 1
"""The round of the file itself; those with mended rows count on."""


@dataclass(frozen=True)
class Prepared:
    """What all turns on a job can share: nothing of it changes while the job goes on."""

    stored: StoredImport
    file: StoredFile
    table: SourceTable
    engine: ImportEngine
    total: int


def prepare_import(context: JobContext, reading: Reading) -> Prepared:
    """Read what the job needs; the read tables are as far as the log was when it was asked for.

    Raises `ImportRefused` where the import is gone or cannot be read.
    """
    import_id = UUID(context.parameters["importId"])
    stored = require_import(context.log, context.scope, import_id)
    file = next(each for each in stored.files if each.round == context.parameters["round"])
    options = options_of(stored.kind, stored.options)
    orders = {name: DateOrder(each) for name, each in context.parameters["orders"].items()}
    columns = with_orders(columns_of(options, stored.files[0].columns), orders)
    engine = open_import_engine(
        context.log, context.scope, reading, options, columns, import_id, context.clock
    )
    total = file.rows if options.rows_max is None else min(file.rows, options.rows_max)
    table = table_of(context.log, context.scope, stored, file)
    return Prepared(stored, file, table, engine, total)


def require_import(log: EventLog, scope: Scope, import_id: UUID) -> StoredImport:
    """The import. Raises `ImportRefused` where there is none any more."""
    with log.transaction(scope) as connection:
        stored = ImportStore(connection, scope.workspace_id).find(import_id)
    if stored is None:
        raise ImportRefused("The file is not kept any more.", ImportFault.UNREADABLE)
    return stored


def table_of(log: EventLog, scope: Scope, stored: StoredImport, file: StoredFile) -> SourceTable:
    """The file as a table, read a part at a time."""

    def read_part(number: int) -> bytes:
        with log.transaction(scope) as connection:
            return ImportStore(connection, scope.workspace_id).part(stored.id, file.round, number)

    source = PartsOfFile(stored.file_name, file.size_bytes, read_part)
    return SourceTable(source, file.encoding, file.delimiter, file.columns, file.rows)


class ImportWork(JobWork):
    """Takes the rows of one file, in order. The cursor is where the next row begins."""

    LIMIT = BATCH_ROWS

    def __init__(self, context: JobContext, prepared: Prepared) -> None:
        super().__init__(context)
        self._prepared = prepared
        self._rows: Iterator[SourceRow] = iter(())
        self._at: FilePlace | None = None
        """Where `_rows` stands."""

    def step(self, cursor: Any, limit: int) -> JobStep:
        """The next rows; those that failed are kept beside."""
        at, context, engine = _At.of(cursor), self.context, self._prepared.engine
        rows = self._read(at.place, min(limit, self._prepared.total - at.taken))
        with context.log.transaction(context.scope) as connection:
            store = ImportStore(connection, context.scope.workspace_id)
            asked, others = self._asked_for(rows, store)
            planned = [engine.plan(row) for row in asked]
            decided = engine.decider.decide(planned, engine.world(connection), context.clock())
            said = [*others, *(each for one in decided.outcomes for each in worth_saying(one))]
            self._keep(store, decided.outcomes, said)
            # Last: whoever follows the log waits from here to the end of the transaction.
            context.log.append(*decided.entities)
        results = Counter(each.result for each in decided.outcomes)
        results[RowResult.SKIPPED] += len(others)
        return self._progress(at.behind(rows), results, said)

    def skip(self, cursor: Any, failure: Exception) -> JobStep:
        """The next row cannot be recorded: it has failed."""
        at, context = _At.of(cursor), self.context
        rows = self._read(at.place, 1)
        with context.log.transaction(context.scope) as connection:
            store = ImportStore(connection, context.scope.workspace_id)
            asked, others = self._asked_for(rows, store)
            message = f"It could not be recorded: {context.summarise_error(failure).error}"
            failed = [_not_recorded(row, message) for row in asked]
            said = [*others, *(each for one in failed for each in one.findings)]
            self._keep(store, failed, said)
        results = Counter({RowResult.FAILED: len(failed), RowResult.SKIPPED: len(others)})
        return self._progress(at.behind(rows), results, said)

    def _read(self, place: FilePlace, limit: int) -> list[SourceRow]:
        if place != self._at:
            self._rows = self._prepared.table.rows(place)
        self._at = None
        rows = list(islice(self._rows, limit))
        self._at = rows[-1].end if rows else place
        return rows

    def _asked_for(
        self, rows: list[SourceRow], store: ImportStore
    ) -> tuple[list[SourceRow], list[Finding]]:
        """The rows to be done. Of mended ones those that failed, by their numbers back then."""
        if self._prepared.file.round == FIRST:
            return rows, []
        numbers = [_number_of(row) for row in rows]
        failed = store.failed_among(self._prepared.stored.id, list(filter(None, numbers)))
        asked: list[SourceRow] = []
        others: list[Finding] = []
        for row, number in zip(rows, numbers, strict=True):
            if number in failed:
                failed.discard(number)
                asked.append(self._of_first(row, number))
            else:
                message = "No row of this number failed and waits to be mended: it is left out."
                given = row.cells.get(ROW_COLUMN, "")
                others.append(warning(row.number, ROW_COLUMN, given, "not_failed", message))
        return asked, others

    def _of_first(self, row: SourceRow, number: int) -> SourceRow:
        """The mended row as if it stood in the first file."""
        columns = self._prepared.stored.files[0].columns
        cells = {name: row.cells.get(name, "") for name in columns}
        return replace(row, number=number, cells=cells)

    def _keep(
        self, store: ImportStore, outcomes: Sequence[RowOutcome], said: list[Finding]
    ) -> None:
        import_id = self._prepared.stored.id
        if self._prepared.file.round != FIRST:
            fine = [each.row.number for each in outcomes if each.result is not RowResult.FAILED]
            store.mended(import_id, fine)
        failed = [each for each in outcomes if each.result is RowResult.FAILED]
        store.add_failures(import_id, map(_failure, failed))
        store.add_findings(import_id, said)

    def _progress(self, at: _At, results: Counter[RowResult], said: list[Finding]) -> JobStep:
        failed = results[RowResult.FAILED]
        return JobStep(
            cursor=at.as_cursor(),
            succeeded=results.total() - failed,
            failed=failed,
            errors=[_item_error(each) for each in said if each.is_error],
            done=at.taken >= self._prepared.total or not results.total(),
            counts={
                **{name.value: results[name] for name in RowResult if name is not RowResult.FAILED},
                "warnings": sum(not each.is_error for each in said),
            },
            total=self._prepared.total,
        )


@dataclass(frozen=True)
class _At:
    """Where an import is: the next row, and how many are done."""

    place: FilePlace = START
    taken: int = 0

    @classmethod
    def of(cls, cursor: Any) -> _At:
        if cursor is None:
            return cls()
        return cls(FilePlace(cursor["byte"], cursor["record"]), cursor["taken"])

    def behind(self, rows: Sequence[SourceRow]) -> _At:
        place = rows[-1].end if rows else self.place
        return _At(place, self.taken + len(rows))

    def as_cursor(self) -> dict[str, int]:
        return {"byte": self.place.byte, "record": self.place.record, "taken": self.taken}


def _number_of(row: SourceRow) -> int | None:
    """The number that a mended row had in the first file."""
    text = row.cells.get(ROW_COLUMN, "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _failure(outcome: RowOutcome) -> Failure:
    """The row as it came; what our own export did to its cells is undone."""
    cells = {name: without_neutraliser(cell) for name, cell in outcome.row.cells.items()}
    findings = [finding_as_json(each) for each in outcome.findings if each.is_error]
    return Failure(outcome.row.number, cells, findings)


def _not_recorded(row: SourceRow, message: str) -> RowOutcome:
    """The row as one that failed; it is not planned, for that may be what failed."""
    found = error(row.number, "", "", "not_recorded", message)
    planned = ImportedRow(row.number, Entity, None, (), (found,), {}, row.cells)
    return RowOutcome(planned, RowResult.FAILED, planned.findings)


def _item_error(finding: Finding) -> ItemError:
    facts = {"column": finding.column, "value": finding.value}
    return ItemError(finding.row, finding.message, finding.code, facts)
