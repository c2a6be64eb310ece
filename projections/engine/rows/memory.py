"""Read tables in memory: the same projectors, folded over any part of history."""

from __future__ import annotations

from collections.abc import Iterable

from eventlog.reading import RecordedEvent
from projections.changes import Handler, Patch, Projection, Put, Row, RowChange, RowKey

Rows = dict[RowKey, Row]


class MemoryTables:
    """The tables of some projections, as of the events applied so far."""

    def __init__(self, projections: Iterable[Projection]) -> None:
        self._projections = tuple(projections)
        self._handlers: dict[str, list[Handler]] = {}
        self.tables: dict[str, Rows] = {
            table.name: {} for projection in self._projections for table in projection.tables
        }

    def apply(self, event: RecordedEvent) -> None:
        """Apply an event with the handlers of all projections."""
        handlers = self._handlers.get(event.topic)
        if handlers is None:
            found = (projection.handler(event.topic) for projection in self._projections)
            handlers = self._handlers[event.topic] = [each for each in found if each]
        for handler in handlers:
            self.change(event.workspace_id, handler(event))

    def change(self, workspace_id: str, changes: Iterable[RowChange]) -> None:
        """Apply row changes of a workspace."""
        for change in changes:
            rows = self.tables[change.table]
            key = (workspace_id, change.key)
            if isinstance(change, Put):
                rows[key] = change.row
            elif isinstance(change, Patch):
                row = rows.get(key)
                if row is not None:
                    patch(row, change)
            else:
                rows.pop(key, None)


def patch(row: Row, change: Patch) -> None:
    """Apply a patch to a row, in place."""
    row.update(change.row)
    for counter, amount in change.add.items():
        row[counter] = (row.get(counter) or 0) + amount
    for column, entries in change.merge.items():
        merged = {**(row.get(column) or {}), **entries}
        row[column] = {key: value for key, value in merged.items() if value is not None}
