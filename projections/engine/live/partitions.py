"""Projections whose partitions stand at different positions, and how to align them.

When a projection is consumed from Kafka, its partitions move one by one; `projections.position` is
the position that all of them have reached. Before the log alone is followed again (by the engine or
for a swap), the partitions are aligned: the log is read from that position, and each partition
takes only the events that it lacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from eventlog.connections import Connection
from eventlog.kafka.message import key_of_event, partition_of
from eventlog.reading import RecordedEvent, read_after
from projections.engine.ledger.coverage import record, tally_events
from projections.engine.live.follower import Follower, advancing, apply_events

ALIGN_EVENTS = 2_000

SELECT_POSITIONS = """
SELECT partition, position FROM projection_offsets WHERE projection = %s ORDER BY partition
"""
RAISE_POSITIONS = """
UPDATE projection_offsets SET position = greatest(position, %s) WHERE projection = %s
"""
DELETE_OFFSETS = "DELETE FROM projection_offsets WHERE projection = %s"
INSERT_POSITIONS = """
INSERT INTO projection_offsets
       (projection, topic, partition, generation, epoch, next_offset, position)
SELECT %s, '', n - 1, 0, 0, 0, position FROM unnest(%s::bigint[]) WITH ORDINALITY AS p(position, n)
"""


@dataclass(frozen=True)
class PartitionPositions:
    """The position of each partition of a projection; empty if all stand at its checkpoint."""

    positions: tuple[int, ...]

    @property
    def highest(self) -> int:
        """The position of the partition that is furthest."""
        return max(self.positions, default=0)

    def of(self, key: str, checkpoint: int) -> int:
        """The position of the partition that holds an account or a stream."""
        if not self.positions:
            return checkpoint
        return max(checkpoint, self.positions[partition_of(key, len(self.positions))])

    def has(self, event: RecordedEvent) -> bool:
        """Whether the event's partition has consumed it."""
        return event.position <= self.of(key_of_event(event), 0)


def load_partition_positions(connection: Connection, projection: str) -> PartitionPositions:
    """Load the positions of a projection's partitions."""
    rows = connection.execute(SELECT_POSITIONS, (projection,)).fetchall()
    return PartitionPositions(tuple(position for _, position in rows))


def align_partitions(connection: Connection, follower: Follower) -> None:
    """Bring all partitions to the furthest one's position, from which the log can be followed.

    The caller holds the projection's lock alone. Raises `CheckpointMoved`.
    """
    unaligned = load_partition_positions(connection, follower.name)
    if not unaligned.positions:
        return
    while follower.position < unaligned.highest:
        page = read_after(connection, follower.position, ALIGN_EVENTS, upto=unaligned.highest)
        missing = [event for event in page.events if not unaligned.has(event)]
        _apply_missing(connection, follower, missing, page.upto)
    connection.execute(DELETE_OFFSETS, (follower.name,))


def follow_unaligned(
    connection: Connection, follower: Follower, unaligned: PartitionPositions
) -> None:
    """Bring an aligned projection to the positions of another one's partitions."""
    if not unaligned.positions:
        return
    position = follower.position
    with connection.transaction():
        while position < unaligned.highest:
            page = read_after(connection, position, ALIGN_EVENTS, upto=unaligned.highest)
            events = [event for event in page.events if unaligned.has(event)]
            _apply_consumed(connection, follower, events)
            position = page.upto
        connection.execute(INSERT_POSITIONS, (follower.name, list(unaligned.positions)))


def _apply_missing(
    connection: Connection, follower: Follower, events: list[RecordedEvent], upto: int
) -> None:
    @contextmanager
    def advance() -> Iterator[None]:
        with advancing(connection, [follower], events, upto):
            yield
        connection.execute(RAISE_POSITIONS, (upto, follower.name))

    apply_events(connection, [(follower, events)], advance)
    follower.position = upto


def _apply_consumed(
    connection: Connection, follower: Follower, events: list[RecordedEvent]
) -> None:
    @contextmanager
    def record_coverage() -> Iterator[None]:
        yield
        record(connection, [follower.name], tally_events(events))

    apply_events(connection, [(follower, events)], record_coverage)
