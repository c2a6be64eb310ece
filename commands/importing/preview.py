"""Preview an import: decide rows as the job would, without recording anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from uuid import UUID

from commands.importing.ahead import BATCH_ROWS
from commands.importing.deciding import ExistingRecords, ImportEngine, RowOutcome, RowResult
from commands.importing.files import START, SourceTable, take_rows
from commands.importing.issues import ImportIssue
from commands.importing.mapping import Mode
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues


@dataclass
class Preview:
    """What an import of the first rows of a file would do."""

    total: int
    """Rows that the import would take."""
    rows: int = 0
    """Rows of the preview."""
    results: Counter[RowResult] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """Number of errors by code."""
    warnings: Counter[str] = field(default_factory=Counter)
    """Number of warnings by code; skipped rows have none."""
    outcomes: list[RowOutcome] = field(default_factory=list)
    """The outcomes of the very first rows."""
    issues: list[ImportIssue] = field(default_factory=list)
    """The first issues."""

    def add_issues(self, issues: Iterable[ImportIssue], issues_max: int) -> None:
        """Count these issues, and keep them up to the maximum."""
        for each in issues:
            (self.errors if each.is_error else self.warnings)[each.code] += 1
            if len(self.issues) < issues_max:
                self.issues.append(each)


def preview(
    engine: ImportEngine,
    table: SourceTable,
    issues: Collection[ImportIssue],
    clock: Callable[[], datetime],
    *,
    rows_max: int | None = None,
    outcomes_max: int,
    issues_max: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Preview:
    """Decide the first rows of a table without recording anything.

    `issues` are those of the whole file. `progress` is called with the rows done and their total.
    """
    found = Preview(min(table.rows_total, engine.options.rows_max or table.rows_total))
    found.add_issues(issues, len(issues))
    overlay = PreviewOverlay(keeps_values=engine.options.mode is Mode.UPDATE)
    rows = islice(table.rows(), min(found.total, rows_max or found.total))
    place = START
    while batch := list(take_rows(rows, place, BATCH_ROWS)):
        place = batch[-1].end
        planned = [engine.planner.plan(row) for row in batch]
        with engine.log.transaction(engine.scope) as connection:
            overlay.below = engine.records(connection)
            decided = engine.decide(planned, overlay, clock(), is_preview=True)
        overlay.add(decided.entities.changed)
        for outcome in decided.outcomes:
            found.rows += 1
            found.results[outcome.result] += 1
            found.add_issues(outcome.reported, issues_max)
            if len(found.outcomes) < outcomes_max:
                found.outcomes.append(outcome)
        progress(found.rows, found.total)
    return found


class PreviewOverlay(ExistingRecords):
    """The entities of the log, overlaid with what a preview would have created or changed."""

    below: ExistingRecords
    """The entities of the log, to be set for each batch."""

    def __init__(self, *, keeps_values: bool) -> None:
        self._keeps_values = keeps_values
        self._ids: set[UUID] = set()
        self._entities: dict[UUID, Entity] = {}
        self._any: Entity | None = None

    def add(self, entities: Iterable[Entity]) -> None:
        """Add what a batch would have recorded."""
        for entity in entities:
            self._ids.add(entity.id)
            # Unless entities are updated, only their existence matters: one stands for all.
            self._any = entity
            if self._keeps_values:
                self._entities[entity.id] = entity

    def existing_ids(self, ids: Collection[UUID]) -> set[UUID]:
        """Those of these ids that exist, in the log or the preview."""
        return self.below.existing_ids(ids) | self._ids.intersection(ids)

    def load(self, ids: Collection[UUID]) -> Mapping[UUID, Entity]:
        """The entities as they would be; in update mode copies, which a refused row may change."""
        if self._keeps_values:
            found = {each: deepcopy(self._entities[each]) for each in ids if each in self._entities}
        else:
            found = dict.fromkeys(self._ids.intersection(ids), self._any) if self._any else {}
        return {**self.below.load(ids), **found}

    def contacts(self, account_ids: Collection[UUID]) -> Iterable[tuple[UUID, UUID, FieldValues]]:
        """Account, id, and values with name and e-mail of the contacts in the log."""
        return self.below.contacts(account_ids)
