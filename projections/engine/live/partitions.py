"""A projection whose partitions are not equally far: where each is, and bringing all together.

Consumed from Kafka, the partitions of a projection move one by one; `projections.position` is what
all have reached. Whoever wants to go on by the log alone (the engine, a swap) levels it first: it
reads the log from there and takes, of each partition, only what that has not had yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventlog.connections import Connection
from eventlog.kafka.message import key_of_event, partition_of
from eventlog.reading import RecordedEvent, read_after
from projections.engine.ledger.coverage import record, tally
from projections.engine.live.follower import UNDIGESTED, Digested, Follower, advance

LEVEL_EVENTS = 2_000

SELECT_REACHED = """
SELECT partition, position FROM projection_offsets WHERE projection = %s ORDER BY partition
"""
RAISE_REACHED = """
UPDATE projection_offsets SET position = greatest(position, %s) WHERE projection = %s
"""
FORGET = "DELETE FROM projection_offsets WHERE projection = %s"
NOTE_REACHED = """
INSERT INTO projection_offsets
       (projection, topic, partition, generation, epoch, next_offset, position)
SELECT %s, '', n - 1, 0, 0, 0, position FROM unnest(%s::bigint[]) WITH ORDINALITY AS p(position, n)
"""


@dataclass(frozen=True)
class Reached:
    """How far each partition of a projection is; empty where they are all at its checkpoint."""

    positions: tuple[int, ...]

    @property
    def highest(self) -> int:
        """Of the partition that is furthest."""
        return max(self.positions, default=0)

    def of(self, key: str, otherwise: int) -> int:
        """Of the partition in which an account (or a stream) lies."""
        if not self.positions:
            return otherwise
        return max(otherwise, self.positions[partition_of(key, len(self.positions))])

    def has(self, event: RecordedEvent) -> bool:
        """Whether its partition has had the event."""
        return event.position <= self.of(key_of_event(event), 0)


def reached(connection: Connection, projection: str) -> Reached:
    """How far each partition of the projection is."""
    rows = connection.execute(SELECT_REACHED, (projection,)).fetchall()
    return Reached(tuple(position for _, position in rows))


def align_partitions(connection: Connection, follower: Follower) -> None:
    """Bring all partitions to where the furthest is; the projection goes on by the log then.

    Whoever calls works on the projection alone (the lease is theirs). Raises `CheckpointMoved`.
    """
    uneven = reached(connection, follower.name)
    if not uneven.positions:
        return
    while follower.position < uneven.highest:
        page = read_after(connection, follower.position, LEVEL_EVENTS, upto=uneven.highest)
        new = [event for event in page.events if not uneven.has(event)]
        _take(connection, follower, new, page.upto)
    connection.execute(FORGET, (follower.name,))


def follow_unevenly(connection: Connection, follower: Follower, uneven: Reached) -> None:
    """Bring a projection that is level to where another one's partitions are, each of them."""
    position = follower.position
    if not uneven.positions:
        return
    with connection.transaction():
        while position < uneven.highest:
            page = read_after(connection, position, LEVEL_EVENTS, upto=uneven.highest)
            events = [event for event in page.events if uneven.has(event)]
            _write(connection, follower, events)
            record(connection, [follower.name], tally(events))
            position = page.upto
        connection.execute(NOTE_REACHED, (follower.name, list(uneven.positions)))


def _take(
    connection: Connection, follower: Follower, events: list[RecordedEvent], upto: int
) -> None:
    with connection.transaction():
        digested = _write(connection, follower, events)
        advance(connection, follower, events, upto)
        connection.execute(RAISE_REACHED, (upto, follower.name))
    follower.advanced(upto, digested)


def _write(connection: Connection, follower: Follower, events: list[RecordedEvent]) -> Digested:
    """Apply events, or, where the database refuses some rows, what can be applied."""
    digested = follower.digest(events)
    try:
        with connection.transaction():
            follower.write(connection, digested)
    except UNDIGESTED:
        digested = follower.write_carefully(connection, events)
    follower.parked.update(digested.set_aside)
    return digested
