"""Folding the changes of a batch into one change per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from projections.changes import RowKey
from projections.engine.rows.memory import MemoryRows, NamedRow

Operation = Literal["put", "patch", "remove"]


class PatchRow(NamedRow):
    """The changed columns of a row that is not in memory.

    A counter has what is to be added, and a JSON map the entries that are to be set.
    """


@dataclass(slots=True)
class FoldedChange:
    """The change of one row, with the version that its latest event gave to the row's entity.

    The version is None if the row is not that of the event's entity, such as an account's row on
    which a task is counted.
    """

    operation: Operation
    row: Any
    """None if the row is removed."""
    version: int | None

    def is_after(self, version: int | None) -> bool:
        """Whether an event of that version is older than this change.

        After an entity moved to another account, its events come from two partitions of Kafka in
        any order, and an older change has no effect.
        """
        return bool(version and self.version and version < self.version)


class ChangedRows(MemoryRows):
    """The changes of one table's rows in a batch, of which the rows before are not known."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: dict[RowKey, FoldedChange] = {}

    def take(self) -> dict[RowKey, FoldedChange]:
        """Remove and return the changes."""
        changes, self.changes = self.changes, {}
        return changes

    def find(self, key: RowKey, version: int | None) -> Any:
        """As `Rows.find`. A row that is not known may exist, so there is a patch for it."""
        change = self.changes.get(key)
        if change is None:
            row = PatchRow()
            self.changes[key] = FoldedChange("patch", row, version)
            return row
        if change.is_after(version):
            return None
        change.version = version or change.version
        return change.row

    def put(self, key: RowKey, row: Any, version: int | None) -> None:
        """As `Rows.put`."""
        self._replace(key, FoldedChange("put", row, version))

    def remove(self, key: RowKey, version: int | None) -> None:
        """As `Rows.remove`."""
        self._replace(key, FoldedChange("remove", None, version))

    def merge(self, row: Any, slot: Any, entries: Mapping[str, Any]) -> None:
        """As `Rows.merge`. Nulls of a patch are kept, because they remove keys from the table."""
        if isinstance(row, PatchRow):
            row[slot] = {**(row[slot] or {}), **entries}
        else:
            super().merge(row, slot, entries)

    def _replace(self, key: RowKey, change: FoldedChange) -> None:
        earlier = self.changes.get(key)
        if earlier is not None:
            if earlier.is_after(change.version):
                return
            change.version = change.version or earlier.version
        self.changes[key] = change
