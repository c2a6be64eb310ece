"""What a process manager is: a function from what it remembers and an event to what it wants done.

It reads no clock and no database, so it is tested by the commands that it issues. It remembers one
thing for each `key` (an appointment, a message) and forgets it by answering None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid5

from eventlog.reading import RecordedEvent

S = TypeVar("S")


@dataclass(frozen=True)
class Command:
    """Something to be done: a name that the outbox knows, and JSON."""

    name: str
    data: Mapping[str, Any]


Reaction = tuple[S | None, tuple[Command, ...]]


@dataclass(frozen=True)
class Process(Generic[S]):
    """A process manager. `memory` is a frozen dataclass of JSON values."""

    name: str
    topics: frozenset[str]
    """The events that it is shown; others it never sees."""
    react: Callable[[S | None, RecordedEvent], Reaction[S]]
    """Pure: what it remembers afterwards, and what is to be done."""
    state_type: type[S]
    key: Callable[[RecordedEvent], str] = lambda event: event.stream_id
    """What the event is about, for the process: under this it remembers."""
    urgent: frozenset[str] = frozenset()
    """Those of its topics for which somebody waits: unread for long, they turn health red."""


def command_id(process: str, event: RecordedEvent, number: int = 0) -> UUID:
    """The id of the process's command number so-and-so on this event: the same every time.

    By the stream and not by the position alone, which other logs have as well.
    """
    return uuid5(UUID(event.stream_id), f"{process}/{event.stream_version}/{number}")
