"""Fold the changes of a batch into one change a row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from projections.changes import Change, Key, Patch, Put, Remove, Row, Table
from projections.engine.memory import patch

Folded = dict[str, dict[Key, Change]]
"""By table, by key: what the batch comes to."""


def fold(changes: Iterable[tuple[str, Change]], tables: Iterable[Table]) -> Folded:
    """One change for each row from changes (with their workspace) in the order of the log."""
    folded: Folded = {table.name: {} for table in tables}
    for workspace_id, change in changes:
        rows = folded[change.table]
        key = (workspace_id, change.key)
        earlier = rows.get(key)
        rows[key] = change if earlier is None else then(earlier, change)
    return folded


def then(first: Change, second: Change) -> Change:
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
