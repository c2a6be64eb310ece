"""Folding the changes of a batch into one change per row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from eventlog.reading import RecordedEvent
from projections.changes import Patch, Put, Remove, RowChange, RowKey, Table
from projections.engine.rows.memory import patch


@dataclass(frozen=True, slots=True)
class VersionedChange:
    """A change, with the version that its event gave to the row's entity.

    The version is None if the row is not that of the event's entity, such as an account's row on
    which a task is counted.
    """

    workspace_id: str
    change: RowChange
    version: int | None


Folded = dict[str, dict[RowKey, VersionedChange]]
"""The change of each row, by table and key."""


def with_version(event: RecordedEvent, change: RowChange) -> VersionedChange:
    """A change with the version of the event that it was made from."""
    is_own = change.key == event.stream_id
    return VersionedChange(event.workspace_id, change, event.stream_version if is_own else None)


def fold(changes: Iterable[VersionedChange], tables: Iterable[Table]) -> Folded:
    """Fold changes, in the order of the log, into one change per row.

    After an entity moved to another account, its events come from two partitions of Kafka in any
    order. A change that is older than the one already folded for its row is dropped.
    """
    folded: Folded = {table.name: {} for table in tables}
    for each in changes:
        rows = folded[each.change.table]
        key = (each.workspace_id, each.change.key)
        earlier = rows.get(key)
        if earlier is None:
            rows[key] = each
        elif not (each.version and earlier.version and each.version < earlier.version):
            both = combine(earlier.change, each.change)
            rows[key] = VersionedChange(each.workspace_id, both, each.version or earlier.version)
    return folded


def combine(first: RowChange, second: RowChange) -> RowChange:
    """The single change that has the effect of `first` followed by `second`."""
    if not isinstance(second, Patch) or isinstance(first, Remove):
        # A patch of a removed row has no effect.
        return first if isinstance(second, Patch) else second
    if isinstance(first, Put):
        row = dict(first.row)
        patch(row, second)
        return Put(first.table, first.key, row)
    return Patch(
        first.table,
        first.key,
        {**first.row, **second.row},
        _added(first.add, second.add),
        _merged(first.merge, second.merge),
    )


def _added(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    if not second:
        return first
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


def _merged(
    first: dict[str, dict[str, Any]], second: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    if not second:
        return first
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in {**first, **second}}
