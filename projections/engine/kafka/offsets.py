"""How far each projection is in each partition of the topic, recorded in PostgreSQL.

Offsets move in the transaction that applies the rows, provided that they stand where the batch
began. A projection's checkpoint is the position that all of its partitions have reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from eventlog.connections import Connection
from eventlog.hints import PROJECTED
from eventlog.kafka.topic import RecordedTopic, load_start_offsets
from eventlog.reading import read_rows_after
from projections.changes import Projection
from projections.engine.install import READ_SCHEMA
from projections.engine.kafka.buffers import ReadyEvents
from projections.engine.live.follower import CheckpointMoved, Follower
from projections.engine.live.partitions import align_partitions

LOCK_PROJECTION = "SELECT FROM projections WHERE name = %s FOR UPDATE"
SELECT_OFFSETS = """
SELECT partition, topic, generation, epoch, next_offset, position FROM projection_offsets
 WHERE projection = %s ORDER BY topic, partition
"""
INSERT_OFFSETS = """
INSERT INTO projection_offsets
       (projection, topic, partition, generation, epoch, next_offset, position)
SELECT %s, %s, n - 1, %s, 0, next_offset, %s
  FROM unnest(%s::bigint[]) WITH ORDINALITY AS o(next_offset, n)
"""

# A retry changes which entities are parked: it locks the row FOR UPDATE and increments the epoch.
# Consumers of different partitions do not block each other.
SELECT_EPOCHS = """
SELECT name, epoch FROM projections WHERE name = ANY(%s) ORDER BY name FOR KEY SHARE
"""
MOVE_OFFSETS = """
UPDATE projection_offsets AS o
   SET next_offset = m.next_offset, position = m.position, epoch = m.epoch
  FROM unnest(%s::text[], %s::integer[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS m(projection, partition, was, next_offset, position, epoch)
 WHERE o.topic = %s AND o.generation = %s AND o.projection = m.projection
   AND o.partition = m.partition AND o.next_offset = m.was
RETURNING o.partition
"""

# Many consumers run this at once, so rows are locked in order of name.
MOVE_CHECKPOINTS = """
WITH least AS (
    SELECT projection, min(position) AS position FROM projection_offsets
     WHERE topic = %s AND projection = ANY(%s) GROUP BY projection
), behind AS MATERIALIZED (
    SELECT p.name, least.position FROM projections AS p JOIN least ON least.projection = p.name
     WHERE p.position < least.position ORDER BY p.name FOR NO KEY UPDATE OF p
)
UPDATE projections AS p SET position = behind.position, updated_at = clock_timestamp()
  FROM behind WHERE p.name = behind.name AND p.position < behind.position
"""
SELECT_CHECKPOINTS = """
SELECT position, array_agg(name ORDER BY name) FROM projections WHERE name = ANY(%s)
 GROUP BY position
"""
SELECT_LOWEST = "SELECT min(position) FROM projections WHERE name = ANY(%s)"
MOVE_CHECKPOINT = """
UPDATE projections SET position = %s, updated_at = clock_timestamp()
 WHERE name = %s AND position = %s
"""


@dataclass(slots=True)
class PartitionCheckpoint:
    """How far one projection is in one partition."""

    next_offset: int
    position: int
    epoch: int

    def after(self, ready: ReadyEvents) -> PartitionCheckpoint:
        """The checkpoint once these events are applied."""
        position = max(self.position, ready.through)
        return PartitionCheckpoint(ready.next_offset, position, ready.epoch)


PartitionCheckpoints = dict[str, dict[int, PartitionCheckpoint]]
"""By projection and partition."""


def enter_topic(
    connection: Connection, projection: Projection, name: str, topic: RecordedTopic
) -> dict[int, PartitionCheckpoint]:
    """Load a projection's checkpoints in the topic, or create them at its position in the log.

    They are created if it was last fed by the log, another topic, or an earlier generation of this.
    Raises `CannotApply`.
    """
    with connection.transaction():
        connection.execute(LOCK_PROJECTION, (projection.name,))
        rows = connection.execute(SELECT_OFFSETS, (projection.name,)).fetchall()
        expected = [(each, name, topic.generation) for each in range(topic.partitions)]
        if [row[:3] for row in rows] == expected:
            return {row[0]: PartitionCheckpoint(row[4], row[5], row[3]) for row in rows}
        follower = Follower.open(connection, projection, READ_SCHEMA, None)
        align_partitions(connection, follower)
        position = follower.position
        offsets = load_start_offsets(connection, topic, name, position)
        parameters = (projection.name, name, topic.generation, position, offsets)
        connection.execute(INSERT_OFFSETS, parameters)
    return {each: PartitionCheckpoint(offset, position, 0) for each, offset in enumerate(offsets)}


def move_offsets(
    connection: Connection,
    followers: Mapping[str, Follower],
    checkpoints: PartitionCheckpoints,
    ready: list[ReadyEvents],
    name: str,
    topic: RecordedTopic,
) -> None:
    """Move the offsets past the events. Raises `CheckpointMoved` if another consumer moved them."""
    names = sorted(followers)
    epochs: dict[str, int] = dict(
        connection.execute(SELECT_EPOCHS, (names,), prepare=True).fetchall()
    )
    for each in names:
        if epochs.get(each) != followers[each].epoch:
            raise CheckpointMoved(each)
    moves = [
        (each, events.partition, before.next_offset, after.next_offset, after.position, after.epoch)
        for each in names
        for events in ready
        for before in (checkpoints[each][events.partition],)
        for after in (before.after(events),)
        if after.next_offset > before.next_offset
    ]
    columns = [list(column) for column in zip(*moves, strict=True)] or [[]] * 6
    parameters = (*columns, name, topic.generation)
    moved = connection.execute(MOVE_OFFSETS, parameters, prepare=True).fetchall()
    if len(moved) != len(moves):
        raise CheckpointMoved("another consumer consumed the same partition")


def move_checkpoints(connection: Connection, name: str, projections: Iterable[str]) -> None:
    """Move each projection's checkpoint to the position that all of its partitions have reached."""
    with connection.transaction():
        parameters = (name, list(projections))
        if connection.execute(MOVE_CHECKPOINTS, parameters, prepare=True).rowcount:
            connection.execute(f"NOTIFY {PROJECTED}")


def skip_unused_positions(connection: Connection, projections: Iterable[str]) -> None:
    """Move checkpoints over positions that no event took, which the topic does not show."""
    checkpoints = connection.execute(SELECT_CHECKPOINTS, (list(projections),)).fetchall()
    for position, names in checkpoints:
        page = read_rows_after(connection, position, 1)
        upto = page.rows[0][0] - 1 if page.rows else page.upto
        if upto > position:
            for name in names:
                connection.execute(MOVE_CHECKPOINT, (upto, name, position), prepare=True)
            connection.execute(f"NOTIFY {PROJECTED}")


def lowest_checkpoint(connection: Connection, projections: Iterable[str]) -> int | None:
    """The lowest checkpoint of the projections."""
    row = connection.execute(SELECT_LOWEST, (list(projections),)).fetchone()
    return row[0] if row else None
