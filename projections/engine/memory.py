"""Tables in memory: the same projectors, folded over as much of history as one likes."""

from __future__ import annotations

from collections.abc import Iterable

from eventlog.reading import RecordedEvent
from projections.changes import Handler, Patch, Projection, Put, Row, RowChange, RowKey

Rows = dict[RowKey, Row]


class MemoryTables:
    """The tables of some projections as of the events that they were given."""

    def __init__(self, projections: Iterable[Projection]) -> None:
        self._projections = tuple(projections)
        self._handlers: dict[str, list[Handler]] = {}
        self.tables: dict[str, Rows] = {
            table.name: {} for projection in self._projections for table in projection.tables
        }

    def apply(self, event: RecordedEvent) -> None:
        """Let the projectors see the event."""
        handlers = self._handlers.get(event.topic)
        if handlers is None:
            found = (projection.handler(event.topic) for projection in self._projections)
            handlers = self._handlers[event.topic] = [each for each in found if each]
        for handler in handlers:
            self.change(event.workspace_id, handler(event))

    def change(self, workspace_id: str, changes: Iterable[RowChange]) -> None:
        """Do what a projector says."""
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
    """Change the row in place."""
    row.update(change.row)
    for counter, amount in change.add.items():
        row[counter] = (row.get(counter) or 0) + amount
    for column, entries in change.merge.items():
        merged = {**(row.get(column) or {}), **entries}
        row[column] = {key: value for key, value in merged.items() if value is not None}
