"""The declaration of a projection: its tables, its rules, and hand-written handlers.

A rule declares what is regular, such as the lifecycle of a kind of entity, and makes functions that
change rows directly (docs/adr/0033). A handler is written by hand for what is not regular; it
returns row changes as data. Both are pure, and the engine decides how rows are held and written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol

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
    """A table in which the engine keeps the counts and sums of the rows, grouped by `by`.

    Without `by` it has one row for each workspace.
    """

    table: str
    by: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A read table: its key within the workspace, its counters and its JSON maps."""

    name: str
    key: str = "id"
    counters: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    counts: tuple[Counts, ...] = ()


class Rows(Protocol):
    """The rows of one table, as rules change them.

    A row is held in whatever way suits its use: `slot` gives the index by which a row of these
    `Rows` holds a column. A column that was not set is null. `version` is that of the entity whose
    row it is after the event, and None for another entity's row, such as the account's.
    """

    def blank(self) -> Any:
        """Make a row in which every column is null. Its `copy` method copies it."""

    def slot(self, column: str) -> Any:
        """The index of a column in a row."""

    def find(self, key: RowKey, version: int | None) -> Any:
        """The row to be changed; None if there is none, so that the event has no effect."""

    def put(self, key: RowKey, row: Any, version: int | None) -> None:
        """Insert or replace a row."""

    def remove(self, key: RowKey, version: int | None) -> None:
        """Delete the row if there is one."""

    def merge(self, row: Any, slot: Any, entries: Mapping[str, Any]) -> None:
        """Set keys of a JSON map in a row that `find` returned; null removes a key."""


Step = Callable[[RowKey, RowKey | None, int, str, Mapping[str, Any]], None]
"""Changes rows for one event: the keys of its entity and of its account, the version and the time
of the event, and its data. A step that raises an error has changed nothing."""


class Rule(Protocol):
    """A regular part of a projection."""

    @property
    def topics(self) -> frozenset[str]:
        """The topics of the events that change rows by this rule."""

    def steps(self, tables: Mapping[str, Rows]) -> Mapping[str, Step]:
        """The step for each topic, for rows that are held in these tables."""


@dataclass(frozen=True)
class Projection:
    """A projection: its name, its tables, its rules, and handlers by topic.

    Each topic belongs to one rule or has a handler. Other topics are ignored.
    """

    name: str
    tables: tuple[Table, ...]
    rules: tuple[Rule, ...] = ()
    handlers: Mapping[str, Handler] = field(default_factory=dict)
    by_account: bool = False
    """Whether an account's row also depends on events of entities that belong to the account."""

    def entity(self, event: RecordedEvent) -> str:
        """The entity whose rows the event changes, and which is parked if the event fails."""
        return self.entity_of(event.stream_id, event.account_id)

    def entity_of(self, stream_id: str, account_id: str | None) -> str:
        """As `entity`, for an event of this stream and account."""
        return (self.by_account and account_id) or stream_id

    @cached_property
    def topics(self) -> frozenset[str]:
        """The topics of the events that change rows."""
        return frozenset(self.handlers).union(*(rule.topics for rule in self.rules))


_CAPITAL = re.compile("([A-Z])")


@cache
def column(wire_name: str) -> str:
    """The column of a field: `next_action_date` for `nextActionDate`."""
    return _CAPITAL.sub(r"_\1", wire_name).lower()
