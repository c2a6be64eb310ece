"""What a projector may say: changes to rows, as data. The engine folds and applies them in sets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from eventlog.reading import RecordedEvent

Row = dict[str, Any]
RowKey = tuple[str, str]
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


RowChange = Put | Patch | Remove
Handler = Callable[[RecordedEvent], Iterable[RowChange]]


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
    append_only: bool = False
    """Each row is put once and stays: a build copies it in at once and need not hold it."""


@dataclass(frozen=True)
class Projection:
    """A name, the tables it owns, and what it does with each topic. It ignores other topics."""

    name: str
    tables: tuple[Table, ...]
    handlers: Mapping[str, Handler]
    every: Handler | None = None
    """Called for every event, whatever its topic."""
    by_account: bool = False
    """Whether an account's row is made from events of what hangs on it, too."""

    def entity(self, event: RecordedEvent) -> str:
        """The entity to whose rows this event belongs: what is parked when it fails."""
        return (self.by_account and event.account_id) or event.stream_id

    def handler(self, topic: str) -> Handler | None:
        """What is done with events of this topic; None where they are ignored."""
        return self.every or self.handlers.get(topic)

    def changes(self, event: RecordedEvent) -> Iterable[RowChange]:
        """What this event changes in the tables. Pure."""
        handler = self.handler(event.topic)
        return handler(event) if handler else ()


_CAPITAL = re.compile("([A-Z])")


@cache
def column(wire_name: str) -> str:
    """The column of a field: `nextActionDate` is kept in `next_action_date`."""
    return _CAPITAL.sub(r"_\1", wire_name).lower()
