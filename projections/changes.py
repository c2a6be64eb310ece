"""Row changes, which projectors return as data, and the declaration of a projection.

The engine folds the changes of a batch and applies them with one statement per table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from eventlog.reading import RecordedEvent

Row = dict[str, Any]
RowKey = tuple[str, str]
"""Workspace id, and the key within the workspace, as text."""


@dataclass(slots=True)
class Put:
    """Insert or replace a row; columns that are not named become null."""

    table: str
    key: str
    row: Row


@dataclass(slots=True)
class Patch:
    """Change columns of a row if it exists.

    `add` adds to numbers, `merge` sets keys of a JSON map (null removes a key).
    """

    table: str
    key: str
    row: Row = field(default_factory=dict)
    add: dict[str, int] = field(default_factory=dict)
    merge: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Remove:
    """Delete a row."""

    table: str
    key: str


RowChange = Put | Patch | Remove
Handler = Callable[[RecordedEvent], Iterable[RowChange]]


@dataclass(frozen=True)
class Counts:
    """A table in which the engine keeps the counts and sums of the rows, grouped by `by`."""

    table: str
    by: tuple[str, ...]
    sums: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A read table: its key within the workspace, its counters and its JSON maps."""

    name: str
    key: str = "id"
    counters: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    counts: Counts | None = None


@dataclass(frozen=True)
class Projection:
    """A projection: its name, its tables, and its handlers by topic. Other topics are ignored."""

    name: str
    tables: tuple[Table, ...]
    handlers: Mapping[str, Handler]
    every: Handler | None = None
    """Handles every event, of any topic."""
    by_account: bool = False
    """Whether an account's row also depends on events of entities that belong to the account."""

    def entity(self, event: RecordedEvent) -> str:
        """The entity whose rows the event changes, and which is parked if the event fails."""
        return (self.by_account and event.account_id) or event.stream_id

    def handler(self, topic: str) -> Handler | None:
        """The handler of a topic; None if the topic is ignored."""
        return self.every or self.handlers.get(topic)

    def changes(self, event: RecordedEvent) -> Iterable[RowChange]:
        """The row changes of an event. Pure."""
        handler = self.handler(event.topic)
        return handler(event) if handler else ()


_CAPITAL = re.compile("([A-Z])")


@cache
def column(wire_name: str) -> str:
    """The column of a field: `next_action_date` for `nextActionDate`."""
    return _CAPITAL.sub(r"_\1", wire_name).lower()
