"""Buffers of the partitions that a consumer reads, each from its last mark.

A mark says that all events of the partition up to a position come before it. The events between two
marks are taken together, each position once and in order, even if a relay that crashed or was late
has sent some twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eventlog.kafka.message import Origin, decode, read_head
from eventlog.reading import RecordedEvent

BUFFER_MESSAGES_MAX = 200_000
"""Maximum number of messages without a mark; a relay's window is much smaller."""


class TopicMoved(Exception):
    """The topic has changed; the consumer must start again from the offsets in PostgreSQL."""


@dataclass(slots=True)
class ReadyEvents:
    """Events of one partition that can be applied, and the offset and position after them."""

    partition: int
    events: list[RecordedEvent]
    next_offset: int
    through: int
    epoch: int


@dataclass(slots=True)
class PartitionBuffer:
    """One partition, read from an offset on. Holds the messages since the last mark taken."""

    partition: int
    next_offset: int
    """The offset that the next message must have."""
    origin: Origin
    """The log and generation to expect, and the latest relay seen."""
    applied_upto: int
    """All projections have applied the events up to here."""
    _waiting: dict[int, bytes] = field(default_factory=dict)
    _taken: dict[int, bytes] = field(default_factory=dict)
    _mark: tuple[int, int] | None = None
    """The offset after, and the position of, the latest mark that was not taken yet."""

    def add(self, messages: list[Any]) -> None:
        """Add polled messages. Raises `TopicMoved`, `MalformedMessage`."""
        for message in messages:
            if message.offset != self.next_offset:
                raise TopicMoved(
                    f"partition {self.partition} continues at offset {message.offset}"
                    f" instead of {self.next_offset}"
                )
            self.next_offset += 1
            head = read_head(message.headers)
            if self._is_outdated(head.origin):
                continue
            if head.is_mark:
                self._add_mark(head.position)
            elif head.position > self.applied_upto:
                self._waiting.setdefault(head.position, message.value)
        if len(self._waiting) > BUFFER_MESSAGES_MAX:
            raise TopicMoved(
                f"partition {self.partition}: {BUFFER_MESSAGES_MAX} messages and no mark"
            )

    @property
    def is_ready(self) -> bool:
        """Whether a mark has arrived since the last `take`."""
        return self._mark is not None

    def take(self) -> ReadyEvents:
        """Remove and decode the events up to the latest mark, in order."""
        assert self._mark is not None
        next_offset, through = self._mark
        events = [decode(self._taken[position]) for position in sorted(self._taken)]
        self._taken, self._mark = {}, None
        self.applied_upto = max(self.applied_upto, through)
        return ReadyEvents(self.partition, events, next_offset, through, self.origin.epoch)

    def _is_outdated(self, origin: Origin) -> bool:
        """Whether a later relay has replaced the message's relay. Raises `TopicMoved`."""
        if origin == self.origin:
            return False
        if origin.log_id != self.origin.log_id:
            raise TopicMoved(f"partition {self.partition} holds log {origin.log_id}")
        if origin.generation != self.origin.generation:
            raise TopicMoved(f"the topic was recreated and has generation {origin.generation}")
        if origin.epoch < self.origin.epoch:
            return True
        self.origin = origin
        return False

    def _add_mark(self, through: int) -> None:
        # Events beyond the mark came from an earlier relay; the mark's relay sends them again.
        for position, value in self._waiting.items():
            if position <= through:
                self._taken[position] = value
        self._waiting = {}
        self._mark = (self.next_offset, max(through, self._mark[1] if self._mark else 0))
