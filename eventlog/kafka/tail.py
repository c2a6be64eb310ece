"""Read the end of each partition, to see what the topic holds before more is published."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kafka.errors import KafkaError

from eventlog.kafka.broker import REQUEST_TIMEOUT_MS, Broker
from eventlog.kafka.message import Head, Origin, digest_of, read_head

TAIL_MESSAGES = 1_000
"""Number of messages read at first. While no mark is among them, `TAIL_GROWTH` times as many."""
TAIL_GROWTH = 4
STALLED_S = 30.0
"""How long a broker may return nothing before the reading fails."""


@dataclass(frozen=True)
class Tail:
    """The end of one partition."""

    partition: int
    end: int
    """The offset after the last message."""
    marks: dict[Origin, int]
    """The position of the last mark, by the relay that wrote it."""
    highest: int
    """The highest position of the messages read."""
    last_event: tuple[int, int] | None
    """Position and digest of the last event read."""


def read_tails(reader: Any, broker: Broker, partitions: int) -> list[Tail]:
    """Read the end of every partition. Raises `KafkaError`, `MalformedMessage`."""
    of_topic = broker.partitions(range(partitions))
    begins = reader.beginning_offsets(of_topic)
    ends = reader.end_offsets(of_topic)
    return [_read_tail(reader, each, begins[each], ends[each]) for each in of_topic]


def read_between(reader: Any, partition: Any, begin: int, end: int) -> Iterator[Any]:
    """Read the messages of a partition from one offset to another. Raises `KafkaError`."""
    if end <= begin:
        return
    reader.assign([partition])
    reader.seek(partition, begin)
    received_at = time.monotonic()
    while True:
        messages = reader.poll(timeout_ms=REQUEST_TIMEOUT_MS).get(partition, ())
        for message in messages:
            if message.offset < end:
                yield message
            if message.offset >= end - 1:
                return
        if messages:
            received_at = time.monotonic()
        elif time.monotonic() - received_at > STALLED_S:
            raise KafkaError(
                f"{partition} returned no message for {STALLED_S:.0f} s before offset {end}"
            )


def _read_tail(reader: Any, partition: Any, begin: int, end: int) -> Tail:
    length = TAIL_MESSAGES
    while True:
        first = max(begin, end - length)
        tail = _summarize(partition.partition, end, read_between(reader, partition, first, end))
        if tail.marks or first == begin:
            return tail
        length *= TAIL_GROWTH


def _summarize(partition: int, end: int, messages: Iterator[Any]) -> Tail:
    marks: dict[Origin, int] = {}
    highest = 0
    last_event: bytes | None = None
    for message in messages:
        head: Head = read_head(message.headers)
        highest = max(highest, head.position)
        if head.is_mark:
            marks[head.origin] = head.position
        else:
            last_event = message.value
    return Tail(partition, end, marks, highest, digest_of(last_event) if last_event else None)
