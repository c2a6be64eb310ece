"""Read tables in memory: the same projectors, folded over as much of history as one likes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from eventlog.reading import RecordedEvent
from projections.changes import Patch, Projection, Put
from projections.engine.fold import patched

Rows = dict[str, dict[str, Any]]


class MemoryTables:
    """Tables of some projections as of whatever events they were given, one workspace at a time."""

    def __init__(self, projections: Iterable[Projection]) -> None:
        self._projections = tuple(projections)
        self.tables: defaultdict[str, Rows] = defaultdict(dict)

    def apply(self, event: RecordedEvent) -> None:
        """Let the projectors see the event."""
        for projection in self._projections:
            for change in projection.changes(event):
                rows = self.tables[change.table]
                if isinstance(change, Put):
                    rows[change.key] = {"id": change.key, **change.row}
                elif isinstance(change, Patch):
                    if change.key in rows:
                        rows[change.key] = patched(rows[change.key], change)
                else:
                    rows.pop(change.key, None)
