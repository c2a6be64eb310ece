"""The partitions that a consumer reads: what came of each since the last mark, and its events.

A mark says that all events of the partition up to a position lie before it. What lies between two
marks is taken together, each position once and in order, whatever a relay that crashed or was late
has doubled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eventlog.kafka.message import Origin, decode, read_head
from eventlog.reading import RecordedEvent

WAITING_MAX = 200_000
"""So many messages without a mark are no window of a relay any more."""


class TopicMoved(Exception):
    """The topic is not what it was: begin again from what PostgreSQL knows."""


@dataclass(slots=True)
class ReadyEvents:
    """Events of one partition that can be applied, and the place after them."""

    partition: int
    events: list[RecordedEvent]
    next_offset: int
    through: int
    epoch: int


@dataclass(slots=True)
class PartitionBuffer:
    """One partition, read from an offset on. Holds what came after the last mark taken."""

    partition: int
    next_offset: int
    """Of the message that must come next."""
    origin: Origin
    """The log and the generation that are expected, and the last relay that was heard."""
    above: int
    """Events up to here are in the rows of every projection."""
    _waiting: dict[int, bytes] = field(default_factory=dict)
    _taken: dict[int, bytes] = field(default_factory=dict)
    _mark: tuple[int, int] | None = None
    """Offset after, and position of, the last mark that was heard and is not taken."""

    def hear(self, messages: list[Any]) -> None:
        """Take in what was polled. Raises `TopicMoved`, `MalformedMessage`."""
        for message in messages:
            if message.offset != self.next_offset:
                raise TopicMoved(
                    f"partition {self.partition} goes on at offset {message.offset}"
                    f" and not at {self.next_offset}"
                )
            self.next_offset += 1
            head = read_head(message.headers)
            if self._is_late(head.origin):
                continue
            if head.is_mark:
                self._close(head.position)
            elif head.position > self.above:
                self._waiting.setdefault(head.position, message.value)
        if len(self._waiting) > WAITING_MAX:
            raise TopicMoved(f"partition {self.partition}: {WAITING_MAX} messages and no mark")

    @property
    def is_ready(self) -> bool:
        """Whether a mark was heard since the last `take`."""
        return self._mark is not None

    def take(self) -> ReadyEvents:
        """The events up to the last mark, in order, decoded."""
        assert self._mark is not None
        next_offset, through = self._mark
        events = [decode(self._taken[position]) for position in sorted(self._taken)]
        self._taken, self._mark = {}, None
        self.above = max(self.above, through)
        return ReadyEvents(self.partition, events, next_offset, through, self.origin.epoch)

    def _is_late(self, origin: Origin) -> bool:
        """Whether the message counts no more; a later relay is noted. Raises `TopicMoved`."""
        if origin == self.origin:
            return False
        if origin.log_id != self.origin.log_id:
            raise TopicMoved(f"partition {self.partition} holds log {origin.log_id}")
        if origin.generation != self.origin.generation:
            raise TopicMoved(f"the topic was made anew, for the {origin.generation}th time")
        if origin.epoch < self.origin.epoch:
            return True
        self.origin = origin
        return False

    def _close(self, through: int) -> None:
        # What lies beyond, an earlier relay sent; the one that sent the mark sends it again.
        for position, value in self._waiting.items():
            if position <= through:
                self._taken[position] = value
        self._waiting = {}
        self._mark = (self.next_offset, max(through, self._mark[1] if self._mark else 0))
