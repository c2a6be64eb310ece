"""What a projector may say: changes to rows, as data. The engine folds and applies them in sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic.alias_generators import to_snake

from eventlog.reading import RecordedEvent

Row = dict[str, Any]
Key = tuple[str, str]
"""Workspace id and key within it, as text."""


@dataclass(slots=True)
class Put:
    """The row is this, whether it was there or not; columns not named are null."""

    table: str
    key: str
    row: Row


@dataclass(slots=True)
class Patch:
    """These columns change where the row is there.

    `add` adds to numbers, `merge` sets keys of a JSON map (null takes the key away).
    """

    table: str
    key: str
    row: Row = field(default_factory=dict)
    add: dict[str, int] = field(default_factory=dict)
    merge: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Remove:
    """The row is gone."""

    table: str
    key: str


Change = Put | Patch | Remove
Handler = Callable[[RecordedEvent], Iterable[Change]]


@dataclass(frozen=True)
class Counts:
    """A table of counters that the engine keeps equal to `GROUP BY by` over the rows."""

    table: str
    by: tuple[str, ...]
    sums: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A read table: its key beside the workspace, its counters and its JSON maps."""

    name: str
    key: str = "id"
    counters: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    counts: Counts | None = None


@dataclass(frozen=True)
class Projection:
    """A name, the tables it owns, and what it does with each topic. It ignores other topics."""

    name: str
    tables: tuple[Table, ...]
    handlers: Mapping[str, Handler]
    every: Handler | None = None
    """Called for every event, whatever its topic."""

    def changes(self, event: RecordedEvent) -> Iterable[Change]:
        """What this event changes in the tables. Pure."""
        if self.every is not None:
            return self.every(event)
        handler = self.handlers.get(event.topic)
        return handler(event) if handler else ()


_COLUMNS: dict[str, str] = {}


def column(wire_name: str) -> str:
    """The column of a field: `nextActionDate` is kept in `next_action_date`."""
    name = _COLUMNS.get(wire_name)
    if name is None:
        name = _COLUMNS[wire_name] = to_snake(wire_name)
    return name
