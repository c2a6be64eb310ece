"""Projectors that share the topic: a consumer group, its partitions in parallel on many machines.

Kafka says only who reads which partition. How far each projection is in each partition stands in
PostgreSQL and is moved in the transaction that applies the rows, on the condition that it stood
where the batch began: a message delivered again, a rebalance in the middle of a batch and a
consumer that lost its partition and does not know it change nothing.

All consumers hold the lease of a projection in common; the engine that follows the log, and a swap,
hold it alone. So one or the other works (docs/adr/0006).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from kafka import ConsumerRebalanceListener
from kafka.errors import KafkaError

from eventlog.connections import Connection, disable_synchronous_commit, follow_connection
from eventlog.hints import PROJECTED
from eventlog.kafka.broker import Broker, close_quietly
from eventlog.kafka.message import MalformedMessage, Origin
from eventlog.kafka.topic import RecordedTopic, known, log_id, start_offsets
from eventlog.locks import LEASE_LOCK
from eventlog.reading import RecordedEvent, read_rows_after
from projections.changes import Projection
from projections.engine.install import READ_SCHEMA
from projections.engine.kafka.buffers import PartitionBuffer, ReadyEvents, TopicMoved
from projections.engine.kafka.workspace_locks import lock_workspaces
from projections.engine.ledger.coverage import record, tally
from projections.engine.live.follower import UNDIGESTED, CheckpointMoved, Digested, Follower
from projections.engine.live.partitions import align_partitions
from projections.engine.live.planning import analyze_new_tables
from projections.engine.live.runner import (
    HOLD,
    LEASE_INTERVAL_S,
    RETRY_DELAY_S,
    Batch,
    Observe,
    handovers,
    tables_of,
    tell_parked,
    unobserved,
)

log = logging.getLogger(__name__)

POLL_MS = 50
"""How long a poll waits for messages; checkpoints are looked after in between."""
BATCH_MESSAGES = 4_000
STALLED_S = 4.0
"""Who hears nothing for so long, though the topic is ahead, joins the group anew."""
SETTLE_INTERVAL_S = 0.2
"""How often the checkpoint is moved over positions that no event took."""

TRY_SHARE = "SELECT pg_try_advisory_lock_shared(%s, hashtext(%s))"
RELEASE_SHARE = "SELECT pg_advisory_unlock_shared(%s, hashtext(%s))"

LOCK_PROJECTION = "SELECT FROM projections WHERE name = %s FOR UPDATE"
SELECT_OFFSETS = """
SELECT partition, topic, generation, epoch, next_offset, position FROM projection_offsets
 WHERE projection = %s ORDER BY topic, partition
"""
ENTER = """
INSERT INTO projection_offsets
       (projection, topic, partition, generation, epoch, next_offset, position)
SELECT %s, %s, n - 1, %s, 0, next_offset, %s
  FROM unnest(%s::bigint[]) WITH ORDINALITY AS o(next_offset, n)
"""

# A retry, which changes what is parked, locks the row FOR UPDATE and counts up the epoch; consumers
# of other partitions do not disturb each other.
SELECT_EPOCHS = """
SELECT name, epoch FROM projections WHERE name = ANY(%s) ORDER BY name FOR KEY SHARE
"""
MOVE = """
UPDATE projection_offsets AS o
   SET next_offset = m.next_offset, position = m.position, epoch = m.epoch
  FROM unnest(%s::text[], %s::integer[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS m(projection, partition, was, next_offset, position, epoch)
 WHERE o.topic = %s AND o.generation = %s AND o.projection = m.projection
   AND o.partition = m.partition AND o.next_offset = m.was
"""

# Rows are locked in order of name: many consumers do this at once.
CHECKPOINT = """
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
SELECT_POSITIONS = """
SELECT position, array_agg(name ORDER BY name) FROM projections WHERE name = ANY(%s)
 GROUP BY position
"""
SELECT_LEAST = "SELECT min(position) FROM projections WHERE name = ANY(%s)"
SETTLE = """
UPDATE projections SET position = %s, updated_at = clock_timestamp()
 WHERE name = %s AND position = %s
"""


class Stalled(Exception):
    """The topic is ahead and the group gives nothing: join it anew.

    kafka-python (3.0.12) can lose an assignment when only a change of metadata called for it and
    the poll that waited for it timed out: the member then neither reads nor sends heartbeats.
    """


MOVED = (
    CheckpointMoved,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
)
"""The batch was rolled back and nothing is lost: read again from what PostgreSQL knows."""
LOST = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    KafkaError,
    MalformedMessage,
    TopicMoved,
    Stalled,
)
"""Begin again with new connections; where it does not pass, the lag says so."""


@dataclass(slots=True)
class PartitionPlace:
    """Where one projection is in one partition."""

    next_offset: int
    position: int
    epoch: int


Places = dict[str, dict[int, PartitionPlace]]
"""By projection, by partition."""


class _Assignment(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notices that the group has shared out the partitions anew."""

    def __init__(self) -> None:
        self.changed = threading.Event()

    def on_partitions_revoked(self, revoked: object) -> None:
        self.changed.set()

    def on_partitions_assigned(self, assigned: object) -> None:
        self.changed.set()


class GroupEngine:
    """One consumer of the group: keeps the projections up to date in the partitions it is given.

    Not thread-safe but for `stop`. Several in several processes share the partitions.
    """

    def __init__(
        self,
        url: str,
        projections: Iterable[Projection],
        broker: Broker,
        *,
        versions: Mapping[str, str] | None = None,
        batch_messages: int = BATCH_MESSAGES,
        observe: Observe = unobserved,
    ) -> None:
        self._url = url
        self._projections = {each.name: each for each in projections}
        self._broker = broker
        self._versions = versions or {}
        self._batch_messages = batch_messages
        self._stopped = threading.Event()
        self._holder = f"kafka:{broker.group}:{socket.gethostname()}:{os.getpid()}"
        self._followers: dict[str, Follower] = {}
        self._places: Places = {}
        self._lanes: dict[int, PartitionBuffer] = {}
        self._topic = RecordedTopic("", 0, 0, 0, 0)
        self._least: tuple[Any, ...] | None = None
        self._observe = observe

    def stop(self) -> None:
        """Finish the batch at hand and return from `run`."""
        self._stopped.set()

    def run(self) -> None:
        """Consume until stopped. A lost database or broker is waited for, and said."""
        while not self._stopped.is_set():
            try:
                with follow_connection(self._url, application_name="annals-apply") as connection:
                    disable_synchronous_commit(connection)
                    self._consume(connection)
            except LOST as error:
                log.warning("consuming stopped and is tried again: %r", error)
                self._stopped.wait(RETRY_DELAY_S)

    def _consume(self, connection: Connection) -> None:
        self._followers, self._lanes = {}, {}
        if not self._await_topic(connection):
            return
        assignment = _Assignment()
        consumer = self._broker.member(self._batch_messages)
        try:
            consumer.subscribe([self._broker.topic], listener=assignment)
            consumer.partitions_for_topic(self._broker.topic)  # known before the group is joined
            self._follow(connection, consumer, assignment)
        finally:
            close_quietly(consumer)

    def _await_topic(self, connection: Connection) -> bool:
        said = False
        while not self._stopped.is_set():
            if known(connection, self._broker.topic) is not None:
                return True
            if not said:
                log.warning("nothing was published to %s yet: run annals relay", self._broker.topic)
            said = True
            self._stopped.wait(LEASE_INTERVAL_S)
        return False

    def _follow(self, connection: Connection, consumer: Any, assignment: _Assignment) -> None:
        leased_at = settled_at = -LEASE_INTERVAL_S
        heard_at = time.monotonic()
        while not self._stopped.is_set():
            changed = self._let_go(connection)
            if time.monotonic() - leased_at >= LEASE_INTERVAL_S:
                leased_at = time.monotonic()
                changed = self._lease(connection) or changed
                analyze_new_tables(connection, READ_SCHEMA, tables_of(self._followers.values()))
            polled = consumer.poll(timeout_ms=POLL_MS)
            if assignment.changed.is_set() or changed:
                assignment.changed.clear()
                self._begin(connection, consumer)
                continue
            try:
                self._hear(connection, polled)
            except MOVED as error:
                log.warning("a batch was rolled back and is read again: %r", error)
                self._stopped.wait(RETRY_DELAY_S)
                self._begin(connection, consumer)
            if polled:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > STALLED_S:
                heard_at = time.monotonic()
                self._require_rest(connection)
            if not polled and time.monotonic() - settled_at >= SETTLE_INTERVAL_S:
                settled_at = time.monotonic()
                self._checkpoint(connection)
                self._settle(connection)

    def _require_rest(self, connection: Connection) -> None:
        """Nothing was heard for long: there is nothing to hear. Raises `Stalled`."""
        topic = known(connection, self._broker.topic)
        if not self._followers or topic is None:
            return
        row = connection.execute(SELECT_LEAST, (list(self._followers),)).fetchone()
        reached = min((lane.above for lane in self._lanes.values()), default=row[0] if row else 0)
        moved, self._least = row != self._least, row
        if topic.generation != self._topic.generation or (
            reached < topic.position and (self._lanes or not moved)
        ):
            raise Stalled(f"at position {reached} of {topic.position}")

    # The lease

    def _lease(self, connection: Connection) -> bool:
        """Ask for projections that nobody holds alone; whether there are more now."""
        busy = handovers(connection)
        more = False
        for name in self._projections.keys() - self._followers.keys() - busy:
            row = connection.execute(TRY_SHARE, (LEASE_LOCK, name)).fetchone()
            if row and row[0]:
                follower = self._follower(connection, name)
                wanted = self._versions.get(name)
                if wanted and wanted != follower.version:
                    log.warning("projection %s changed: run ./annals rebuild %s", name, name)
                connection.execute(HOLD, (self._holder, wanted, name))
                more = True
        return more

    def _let_go(self, connection: Connection) -> bool:
        """Release what a rebuild wants to swap; whether there is less now."""
        gone = handovers(connection) & self._followers.keys()
        for name in gone:
            connection.execute(RELEASE_SHARE, (LEASE_LOCK, name))
            del self._followers[name]
        return bool(gone)

    def _follower(self, connection: Connection, name: str) -> Follower:
        follower = Follower(connection, self._projections[name], READ_SCHEMA)
        self._followers[name] = follower
        return follower

    # Where to read

    def _begin(self, connection: Connection, consumer: Any) -> None:
        """Read each partition from where the projections are, by what PostgreSQL says now."""
        name = self._broker.topic
        topic = known(connection, name)
        assert topic is not None
        self._topic = topic
        self._places = {each: self._enter(connection, each) for each in self._followers}
        for each in self._followers:  # after the places: who parks moves those, too
            self._follower(connection, each)
        origin = Origin(log_id(connection), topic.generation, 0)
        assigned = {each.partition: each for each in consumer.assignment()}
        self._lanes = {}
        for partition in assigned if self._followers else ():
            lane = self._lanes[partition] = self._lane(partition, origin)
            consumer.seek(assigned[partition], lane.next_offset)
        idle = [each for number, each in assigned.items() if number not in self._lanes]
        consumer.pause(*idle)
        consumer.resume(*(assigned[number] for number in self._lanes))

    def _lane(self, partition: int, origin: Origin) -> PartitionBuffer:
        places = [by_partition[partition] for by_partition in self._places.values()]
        first = min(places, key=lambda place: place.next_offset)
        return PartitionBuffer(
            partition,
            first.next_offset,
            Origin(origin.log_id, origin.generation, first.epoch),
            min(place.position for place in places),
        )

    def _enter(self, connection: Connection, projection: str) -> dict[int, PartitionPlace]:
        """The projection's places; made where it was level, or stood in another topic."""
        name, topic = self._broker.topic, self._topic
        with connection.transaction():
            connection.execute(LOCK_PROJECTION, (projection,))
            rows = connection.execute(SELECT_OFFSETS, (projection,)).fetchall()
            expected = [(each, name, topic.generation) for each in range(topic.partitions)]
            if [row[:3] for row in rows] == expected:
                return {row[0]: PartitionPlace(row[4], row[5], row[3]) for row in rows}
            follower = self._follower(connection, projection)
            align_partitions(connection, follower)
            position = follower.position
            offsets = start_offsets(connection, topic, name, position)
            connection.execute(ENTER, (projection, name, topic.generation, position, offsets))
        return {each: PartitionPlace(offset, position, 0) for each, offset in enumerate(offsets)}

    # A batch

    def _hear(self, connection: Connection, polled: Mapping[Any, list[Any]]) -> None:
        for partition, messages in polled.items():
            if partition.partition in self._lanes:
                self._lanes[partition.partition].hear(messages)
        taken = [lane.take() for lane in self._lanes.values() if lane.is_ready]
        if taken:
            started = time.monotonic()
            self._apply(connection, taken)
            self._checkpoint(connection)
            events = [event for each in taken for event in each.events]
            self._observe(Batch(len(events), time.monotonic() - started), events)

    def _apply(self, connection: Connection, taken: list[ReadyEvents]) -> None:
        groups = self._groups(taken)
        work = [
            (follower, follower.digest(events), events)
            for names, events in groups
            for follower in (self._followers[name] for name in names)
        ]
        # Everybody writes in the same order, so that nobody waits for who waits for him: rows that
        # more than one partition touches are counters, and those each statement takes in order.
        work.sort(key=lambda each: each[0].name)
        try:
            with connection.transaction():
                lock_workspaces(connection, (event for each in taken for event in each.events))
                self._move(connection, taken)
                with connection.pipeline():
                    for follower, digested, _ in work:
                        follower.write(connection, digested)
                    for names, events in groups:
                        record(connection, names, tally(events))
        except UNDIGESTED as error:
            log.warning("a batch is applied in parts: %s", error)
            work = self._apply_carefully(connection, taken, groups)
        for follower, digested, _ in work:
            self._applied(follower, digested)
        self._note_places(taken)

    def _apply_carefully(
        self,
        connection: Connection,
        taken: list[ReadyEvents],
        groups: list[tuple[list[str], list[RecordedEvent]]],
    ) -> list[tuple[Follower, Digested, list[RecordedEvent]]]:
        events_of = {name: events for names, events in groups for name in names}
        with connection.transaction():
            lock_workspaces(connection, (event for each in taken for event in each.events))
            self._move(connection, taken)
            work = [
                (follower, follower.write_carefully(connection, events_of[name]), events_of[name])
                for name, follower in sorted(self._followers.items())
                if name in events_of
            ]
            for names, events in groups:
                record(connection, names, tally(events))
        return work

    def _groups(self, taken: list[ReadyEvents]) -> list[tuple[list[str], list[RecordedEvent]]]:
        """Projections that are equally far, and the events that are new to them."""
        names_of: dict[tuple[int, ...], list[str]] = {}
        for name in sorted(self._followers):
            places = self._places[name]
            reached = tuple(places[each.partition].position for each in taken)
            names_of.setdefault(reached, []).append(name)
        return [
            (
                names,
                [
                    event
                    for each, position in zip(taken, reached, strict=True)
                    for event in each.events
                    if event.position > position
                ],
            )
            for reached, names in names_of.items()
        ]

    def _move(self, connection: Connection, taken: list[ReadyEvents]) -> None:
        """Move the places, on the condition that nobody else did. Raises `CheckpointMoved`."""
        names = sorted(self._followers)
        epochs: dict[str, int] = dict(
            connection.execute(SELECT_EPOCHS, (names,), prepare=True).fetchall()
        )
        for name in names:
            if epochs.get(name) != self._followers[name].epoch:
                raise CheckpointMoved(name)
        moves = [
            (name, each.partition, place.next_offset, *_after(place, each))
            for name in names
            for each in taken
            for place in (self._places[name][each.partition],)
            if each.next_offset > place.next_offset
        ]
        columns = [list(column) for column in zip(*moves, strict=True)] or [[]] * 6
        parameters = (*columns, self._broker.topic, self._topic.generation)
        if connection.execute(MOVE, parameters, prepare=True).rowcount != len(moves):
            raise CheckpointMoved("somebody else consumed the same partition")

    def _note_places(self, taken: list[ReadyEvents]) -> None:
        for name in self._followers:
            for each in taken:
                place = self._places[name][each.partition]
                if each.next_offset > place.next_offset:
                    self._places[name][each.partition] = PartitionPlace(*_after(place, each))

    def _applied(self, follower: Follower, digested: Digested) -> None:
        follower.parked.update(digested.set_aside)
        tell_parked(follower, digested)

    # The checkpoint

    def _checkpoint(self, connection: Connection) -> None:
        """The checkpoint of a projection is what all of its partitions have reached."""
        names = list(self._followers)
        with connection.transaction():
            parameters = (self._broker.topic, names)
            if connection.execute(CHECKPOINT, parameters, prepare=True).rowcount:
                connection.execute(f"NOTIFY {PROJECTED}")

    def _settle(self, connection: Connection) -> None:
        """Move checkpoints over positions that no event took: the topic does not tell of them."""
        names = list(self._followers)
        for position, standing in connection.execute(SELECT_POSITIONS, (names,)).fetchall():
            page = read_rows_after(connection, position, 1)
            upto = page.rows[0][0] - 1 if page.rows else page.upto
            if upto > position:
                for name in standing:
                    connection.execute(SETTLE, (upto, name, position), prepare=True)
                connection.execute(f"NOTIFY {PROJECTED}")


def _after(place: PartitionPlace, taken: ReadyEvents) -> tuple[int, int, int]:
    """Next offset, position and epoch of a place once this is applied."""
    return taken.next_offset, max(place.position, taken.through), taken.epoch
