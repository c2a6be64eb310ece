"""Imports: the rows of a CSV file become commands, each row with an outcome of its own.

Planning a row is pure (`importing.planning`); this module takes rows through it in batches, leaves
out what is there already, and has the rest recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import TypeVar
from uuid import UUID

from commands.importing.cells import DateOrder, DetectedOrder, detect_order
from commands.importing.findings import Finding, Severity, warning
from commands.importing.options import Column, Directory, ImportOptions, columns_of
from commands.importing.planning import ImportedRow, Key, RowPlanner, key_of
from commands.importing.tables import Row, Table
from commands.importing.writing import BatchWriter, DecidedRow
from domain.refusals import Refusal
from eventlog.log import EventLog
from eventlog.scope import Scope

T = TypeVar("T")

BATCH_ROWS = 500
"""Rows in one transaction; it takes some 100 ms, far from the 5 s that a writer may take."""
FINDINGS_MAX = 200_000
"""So many findings are kept for the report; more are counted only."""
HEADER_ROW = 1

Progress = Callable[[int, int], None]
"""Called with the rows that are done and all there are."""


@dataclass
class ImportResult:
    """What came of an import. Of a dry run: what would have come of it."""

    rows: int = 0
    created: int = 0
    skipped: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """How many errors there are, by code."""
    warnings: Counter[str] = field(default_factory=Counter)
    """How many warnings there are, by code; rows that were skipped give none."""
    findings: list[Finding] = field(default_factory=list)
    position: int = 0
    """The log position by which all of it is recorded; 0 where nothing was."""

    def report(self, findings: Iterable[Finding]) -> None:
        """Count these findings, and keep them as far as there is room."""
        for each in findings:
            counter = self.errors if each.severity is Severity.ERROR else self.warnings
            counter[each.code] += 1
            if len(self.findings) < FINDINGS_MAX:
                self.findings.append(each)


class Import:
    """One import of one table into the workspace of the scope.

    `existing` are the keys of what is there already, as `key_part` makes them. Raises
    `ImportRefused` where options and columns do not go together.
    """

    def __init__(
        self,
        log: EventLog,
        scope: Scope,
        options: ImportOptions,
        table: Table,
        directory: Directory,
        existing: Iterable[Key],
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
    ) -> None:
        self._options = options
        self._table = table
        self._workspace_id = scope.workspace_id
        self._clock = clock
        self._new_id = new_id
        self._writer = BatchWriter(log, scope)
        self._existing = set(existing)
        self._result = ImportResult()
        columns = self._dated(columns_of(options, table.columns))
        self._planner = RowPlanner(options, columns, directory, clock)

    def run(self, progress: Progress = lambda done, total: None) -> ImportResult:
        """Take every row through. Again after a crash: what was recorded is skipped then.

        Raises `ImportRefused` where the file cannot be read on, the library's `OperationalError`
        where the database cannot be reached; whole batches before that are recorded.
        """
        total = self._table.rows_total
        if self._options.rows_max is not None:
            total = min(total, self._options.rows_max)
        rows = islice(self._table.rows(), total)
        for batch in _batches(rows, BATCH_ROWS):
            self._take(batch)
            progress(self._result.rows, total)
        self._result.findings.sort(key=lambda each: each.row)
        return self._result

    def _take(self, batch: list[Row]) -> None:
        now = self._clock()
        decided = [each for row in batch if (each := self._decide(row, now)) is not None]
        self._result.rows += len(batch)
        failures: dict[int, Finding] = {}
        if decided and not self._options.dry_run:
            written = self._writer.write(decided, now)
            self._result.position = max(self._result.position, written.position)
            failures = written.failures
        self._result.created += len(decided) - len(failures)
        self._result.failed += len(failures)
        for each in decided:
            self._result.report(each.row.findings)
        self._result.report(failures.values())

    def _decide(self, row: Row, now: datetime) -> DecidedRow | None:
        """The row as an entity, None where it is skipped or failed (which is counted here)."""
        planned = self._planner.plan_row(row)
        if not planned.is_good:
            self._fail(planned.findings)
            return None
        try:
            entity = planned.decide(self._new_id(), self._workspace_id, now)
        except Refusal as refusal:
            self._fail([*planned.findings, *planned.refused(refusal)])
            return None
        decided = DecidedRow(planned, entity)
        return decided if self._is_new(decided) else None

    def _is_new(self, decided: DecidedRow) -> bool:
        """Whether nothing with the same key is there or came earlier in the file."""
        if not self._options.dedupe_by:
            return True
        key = key_of(decided.entity, self._options.dedupe_by)
        if key is None:
            self._fail([*decided.row.findings, _no_key(decided.row, self._options)])
            return False
        if key in self._existing:
            self._result.skipped += 1
            return False
        self._existing.add(key)
        return True

    def _fail(self, findings: Iterable[Finding]) -> None:
        self._result.failed += 1
        self._result.report(findings)

    def _dated(self, columns: list[Column]) -> list[Column]:
        """The columns, each with the order that its dates are written in."""
        detected = {
            each.name: found
            for each in columns
            if each.has_dates and (found := detect_order(self._table.values(each.name)))
        }
        certain = {found.order for found in detected.values() if found.is_certain}
        return [self._with_order(each, detected.get(each.name), certain) for each in columns]

    def _with_order(
        self, column: Column, detected: DetectedOrder | None, certain: set[DateOrder]
    ) -> Column:
        """Where a column does not tell, it is as the other columns of the file, if they agree."""
        if self._options.dates is not None:
            return replace(column, dates=self._options.dates)
        if detected is None:
            return column
        if detected.is_ambiguous and len(certain) == 1:
            return replace(column, dates=next(iter(certain)))
        if not detected.is_certain:
            self._result.report([_doubtful(column, detected)])
        return replace(column, dates=detected.order)


def _no_key(row: ImportedRow, options: ImportOptions) -> Finding:
    names = " and ".join(options.dedupe_by)
    return row.failure("", "no_key", f"Without {names} the row cannot be told from others.")


def _doubtful(column: Column, detected: DetectedOrder) -> Finding:
    what = "No date tells the order"
    if detected.is_mixed:
        what = "Some dates are day first, others month first"
    order = {DateOrder.MDY: "month/day/year", DateOrder.DMY: "day/month/year"}[detected.order]
    message = f"{what}: read as {order}; --dates says otherwise."
    return warning(HEADER_ROW, column.name, "", "doubtful_dates", message)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
