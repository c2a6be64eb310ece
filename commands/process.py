"""A process manager: a pure function from its state and an event to a new state and commands.

It reads neither a clock nor a database, so it can be tested without them. It keeps one state for
each `key` (an appointment, a message), and returns None to delete the state.
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
    """A command for the outbox: a name with a handler, and JSON."""

    name: str
    data: Mapping[str, Any]


Reaction = tuple[S | None, tuple[Command, ...]]


@dataclass(frozen=True)
class Process(Generic[S]):
    """The declaration of a process manager."""

    name: str
    topics: frozenset[str]
    """The events that it reacts to."""
    react: Callable[[S | None, RecordedEvent], Reaction[S]]
    """Pure: returns the new state, and the commands to run."""
    state_type: type[S]
    """A frozen dataclass of JSON values."""
    key: Callable[[RecordedEvent], str] = lambda event: event.stream_id
    """The key of the state that an event concerns."""
    urgent: frozenset[str] = frozenset()
    """Topics that users wait for: health becomes red if such an event waits too long."""


def command_id(process: str, event: RecordedEvent, number: int = 0) -> UUID:
    """The id of a command that the process issues on this event: the same every time.

    `number` counts the commands on the event. The id is derived from the stream and its version
    and not from the position, because two logs assign the same positions.
    """
    return uuid5(UUID(event.stream_id), f"{process}/{event.stream_version}/{number}")
