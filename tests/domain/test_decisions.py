"""The docstring of each aggregate lists its decisions and every refusal that they can raise."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from textwrap import dedent

import pytest

from domain.shared.entity import Entity, RecordedAggregate
from domain.shared.kinds import AGGREGATES
from domain.shared.merging import MergeableEntity
from domain.shared.refusals import Refusal

SECTION = re.compile(r"^Decisions, and when they are refused:\n\n(.*?)\n\n", re.S | re.M)
DECISIONS = re.compile(r"^(\w+(?:, \w+)*): ", re.M)
NAME = re.compile(r"`([A-Z]\w+)`")

BY_COMMANDS = {
    *("AccountUnavailable", "NotAMember", "ReferenceUnavailable", "OpenOpportunities"),
    *("TimeTaken", "LeadOptedOut", "LeadHasNoPhone"),
    *("LeadDailyLimitReached", "WorkspaceDailyLimitReached"),
}
"""Refusals that command handlers raise, for rules that need more than one aggregate."""

every_aggregate = pytest.mark.parametrize("aggregate", AGGREGATES.values(), ids=list(AGGREGATES))


def docstring(aggregate: type[RecordedAggregate]) -> str:
    return inspect.cleandoc(aggregate.__doc__ or "")


def decisions(aggregate: type[RecordedAggregate]) -> set[str]:
    """The public methods of our classes that take the time of a decision, `at`."""
    found = {
        name
        for name, method in inspect.getmembers(aggregate, inspect.isroutine)
        if not name.startswith("_")
        and method.__module__.startswith("domain.")
        and "at" in inspect.signature(method).parameters
    }
    if not issubclass(aggregate, Entity):
        return found
    if aggregate.STATUS_FIELD is None:
        found -= {"change_status"}
    if not aggregate.BELONGS_TO_ACCOUNT:
        found -= {"begin_move", "complete_move"}
    return found


def possible_refusals(aggregate: type[RecordedAggregate]) -> set[str]:
    """The refusals that methods of the aggregate, its field model or their bases raise."""
    if not issubclass(aggregate, Entity):
        return set(_raised(aggregate.__mro__)) & set(_names_of(Refusal))
    found = set(_raised(chain(aggregate.__mro__, aggregate.FIELDS.__mro__)))
    if not issubclass(aggregate, MergeableEntity):
        found -= {"WasMerged", "MergeRefused"}
    if _allows_every_transition(aggregate):
        found -= {"TransitionRefused"}
    if not aggregate.ACCOUNT_REQUIRED:
        found -= {"AccountUnavailable"}
    return found & set(_names_of(Refusal))


def _allows_every_transition(kind: type[Entity]) -> bool:
    """Whether each status may follow each other one; also true of kinds without a status."""
    statuses = set(kind.TRANSITIONS)
    return all(allowed == statuses - {status} for status, allowed in kind.TRANSITIONS.items())


def _raised(classes: Iterable[type]) -> Iterator[str]:
    for each in classes:
        if each.__module__.startswith("domain."):
            for node in ast.walk(ast.parse(dedent(inspect.getsource(each)))):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                    yield ast.unparse(node.exc.func)


def _names_of(refusal: type[Refusal]) -> Iterator[str]:
    for each in refusal.__subclasses__():
        yield each.__name__
        yield from _names_of(each)


@every_aggregate
def test_the_docstring_lists_exactly_the_decisions(aggregate: type[RecordedAggregate]) -> None:
    section = SECTION.search(docstring(aggregate))
    assert section is not None, "no section on decisions"
    listed = [name for names in DECISIONS.findall(section[1]) for name in names.split(", ")]
    assert sorted(listed) == sorted(decisions(aggregate))


@every_aggregate
def test_the_docstring_names_every_possible_refusal(aggregate: type[RecordedAggregate]) -> None:
    named = set(NAME.findall(docstring(aggregate))) & set(_names_of(Refusal))
    possible = possible_refusals(aggregate)
    assert possible <= named
    assert named - possible <= BY_COMMANDS
