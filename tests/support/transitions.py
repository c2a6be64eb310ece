"""Tables of status transitions: each transition is recorded, or refused with the allowed ones."""

from __future__ import annotations

from itertools import product

import pytest
from _pytest.mark import MarkDecorator

from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.refusals import TransitionRefused
from tests.support.spec import ID, NOON, created, given, status_changed

Table = dict[str, str]
"""By status: the statuses that may follow it, separated by spaces."""


def every_transition(table: Table) -> MarkDecorator:
    """Parametrize with each pair of two different statuses, as `before` and `after`."""
    pairs = [pair for pair in product(table, table) if pair[0] != pair[1]]
    return pytest.mark.parametrize(("before", "after"), pairs)


def check_transition(
    kind: type[Entity], values: FieldValues, before: str, after: str, table: Table
) -> None:
    """Assert that the transition is recorded if the table allows it, and refused otherwise."""
    assert kind.STATUS_FIELD is not None
    outcome = given(kind, created(kind, {**values, kind.STATUS_FIELD: before})).when(
        lambda entity: entity.change_status(after, at=NOON)
    )
    allowed = table[before].split()
    if after in allowed:
        outcome.then(status_changed(kind, before, after))
    else:
        outcome.then(TransitionRefused(kind.KIND, ID, before, after, sorted(allowed)))
