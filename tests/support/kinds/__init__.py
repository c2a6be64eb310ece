"""Descriptions of kinds of entities for tests: one file for each kind, found automatically.

A described kind is covered by every test of all kinds: the domain's rules, the samples of its
events, the read tables against the oracle, lists, searches, query plans and history. Kinds older
than this package are written out in those tests.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from domain.shared.entity import Entity
from domain.shared.fields import FieldValues

Act = Callable[[Any, datetime], None]
"""Calls one of an entity's own methods, at a time."""


@dataclass(frozen=True)
class KindDescription:
    """What the tests need to know of one kind."""

    kind: type[Entity]
    example: FieldValues
    """The recorded values of a simple entity."""
    changed: tuple[str, str]
    """A field and another value for it."""
    full: FieldValues
    """A value for every field that a client can set."""
    revised: FieldValues
    """Other values for some of these fields, None for others."""
    steps: list[Act]
    """Steps that record each of the kind's own topics once; samples are made from them."""
    columns: str
    """The kind's own fields, in the order of declaration."""
    searched: str
    filters: str
    counted: tuple[str, ...]
    """Columns of the kind's table of counts."""
    sorts: Mapping[str, str]
    """Sort orders by name, except by creation and change: columns without nulls."""
    any_fields: Callable[[Any], Any]
    """Returns a strategy for the fields, given the module `tests.support.random_commands`."""
    any_values: Callable[[Callable[[Any], Any], str], FieldValues]
    """Returns the values of one entity among many, given a function that chooses, and a name."""
    many_rows: tuple[str, str]
    """Columns and SQL values of thousands of rows; may use `{name}`, `{account}` and row `i`."""
    conversions: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    """By field: converts the recorded value to the column's type, if that is not text."""
    acts: list[Act] = field(default_factory=list)
    """Steps that may be taken at any time, in any order."""

    @property
    def topics(self) -> set[str]:
        """The kind's own topics without the prefix of the kind."""
        shapes = {"created", "updated", "status_changed", "deleted", "restored"}
        own = {getattr(value, "TOPIC", "") for value in vars(self.kind).values()}
        return {topic.split(".")[1] for topic in own if "." in topic} - shapes


DESCRIBED_KINDS: list[KindDescription] = [
    importlib.import_module(each.name).DESCRIPTION
    for each in pkgutil.iter_modules(__path__, f"{__name__}.")
]
