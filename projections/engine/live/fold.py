"""Fold the changes of a batch into one change a row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from eventlog.reading import RecordedEvent
from projections.changes import Patch, Put, Remove, Row, RowChange, RowKey, Table
from projections.engine.memory import patch


@dataclass(frozen=True, slots=True)
class VersionedChange:
    """A change, and the version of the row's own entity by which it is; None where it is not one's
    own (a counter on the account of what came or went)."""

    workspace_id: str
    change: RowChange
    version: int | None


Folded = dict[str, dict[RowKey, VersionedChange]]
"""By table, by key: what the batch comes to."""


def dated(event: RecordedEvent, change: RowChange) -> VersionedChange:
    """The change that a projector made of the event."""
    is_own = change.key == event.stream_id
    return VersionedChange(event.workspace_id, change, event.stream_version if is_own else None)


def fold(changes: Iterable[VersionedChange], tables: Iterable[Table]) -> Folded:
    """One change for each row from changes in the order of the log.

    What an entity went through on one account and on the next may come in any order, from two
    partitions of Kafka: a change that is older than what there is changes nothing.
    """
    folded: Folded = {table.name: {} for table in tables}
    for each in changes:
        rows = folded[each.change.table]
        key = (each.workspace_id, each.change.key)
        earlier = rows.get(key)
        if earlier is None:
            rows[key] = each
        elif not (each.version and earlier.version and each.version < earlier.version):
            both = then(earlier.change, each.change)
            rows[key] = VersionedChange(each.workspace_id, both, each.version or earlier.version)
    return folded


def then(first: RowChange, second: RowChange) -> RowChange:
    """The one change that does what `first` and then `second` do."""
    if not isinstance(second, Patch) or isinstance(first, Remove):
        # A patch of a row that is gone changes nothing.
        return first if isinstance(second, Patch) else second
    if isinstance(first, Put):
        return Put(first.table, first.key, patched(first.row, second))
    return Patch(
        first.table,
        first.key,
        {**first.row, **second.row},
        _added(first.add, second.add),
        _merged(first.merge, second.merge),
    )


def patched(row: Row, change: Patch) -> Row:
    """The row after the patch."""
    result = dict(row)
    patch(result, change)
    return result


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
