"""What tests have to be told of a kind of entity, one file a kind, found by looking.

With it every test that goes through all kinds goes through this one too: the domain's rules, the
samples of its events, the read tables against the oracle, lists, searches, plans, and history. The
kinds that were there before this package are written out in those tests themselves.
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
"""Has an entity do something of its own."""


@dataclass(frozen=True)
class Told:
    """One kind, as whoever writes its tests knows it."""

    kind: type[Entity]
    example: FieldValues
    """The facts of a plain one, as they are recorded."""
    changed: tuple[str, str]
    """One of its fields, and another value for it."""
    full: FieldValues
    """Every field that can be set by hand, with a value."""
    revised: FieldValues
    """Other values for some of them, and none for others."""
    steps: list[Act]
    """What happens to one in the life of which samples are kept: each topic once."""
    columns: str
    """Fields of its own, in the order of declaration."""
    searched: str
    filters: str
    counted: tuple[str, ...]
    """Columns of its table of counts."""
    sorts: Mapping[str, str]
    """Orders by name, besides those by time of creation and of change: columns without nulls."""
    any_fields: Callable[[Any], Any]
    """A strategy for its fields, made of those in `tests.support.strategies`."""
    any_life: Callable[[Callable[[Any], Any], str], FieldValues]
    """Fields of one of a crowd: given how to choose among some, and a name."""
    many_rows: tuple[str, str]
    """Columns and SQL values of thousands of rows; `{name}`, `{account}` and a row's number `i`."""
    conversions: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    """From what is recorded to what its column holds, where that is not text."""
    acts: list[Act] = field(default_factory=list)
    """What else somebody may have one do at any time."""

    @property
    def topics(self) -> set[str]:
        """Second halves of the topics of its own steps."""
        shapes = {"created", "updated", "status_changed", "deleted", "restored"}
        own = {getattr(value, "TOPIC", "") for value in vars(self.kind).values()}
        return {topic.split(".")[1] for topic in own if "." in topic} - shapes


TOLD: list[Told] = [
    importlib.import_module(each.name).TOLD
    for each in pkgutil.iter_modules(__path__, f"{__name__}.")
]
