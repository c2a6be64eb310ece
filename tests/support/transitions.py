"""Tables of status transitions: each move is allowed, or refused by name."""

from __future__ import annotations

from itertools import product

import pytest
from _pytest.mark import MarkDecorator

from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.refusals import TransitionRefused
from tests.support.spec import ID, NOON, created, given, moved

Table = dict[str, str]
"""By status: those that it may become, as words of one text."""


def every_move(table: Table) -> MarkDecorator:
    """Each pair of two different statuses, as `before` and `after`."""
    moves = [move for move in product(table, table) if move[0] != move[1]]
    return pytest.mark.parametrize(("before", "after"), moves)


def check_move(
    kind: type[Entity], facts: FieldValues, before: str, after: str, table: Table
) -> None:
    """The move is recorded where the table allows it, and refused with what would be allowed."""
    assert kind.STATUS_FIELD is not None
    outcome = given(kind, created(kind, {**facts, kind.STATUS_FIELD: before})).when(
        lambda entity: entity.change_status(after, at=NOON)
    )
    allowed = table[before].split()
    if after in allowed:
        outcome.then(moved(kind, before, after))
    else:
        outcome.then(TransitionRefused(kind.KIND, ID, before, after, sorted(allowed)))
