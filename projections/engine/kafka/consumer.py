"""The engine that consumes Kafka: members of one consumer group share the topic's partitions.

Kafka only decides who reads which partition. How far each projection is in each partition is kept
in PostgreSQL (`offsets`), so a redelivered message, a rebalance in the middle of a batch, or a
consumer that has lost its partition without knowing it changes nothing.

All members share a projection's lock, which the engine that follows the log and a swap hold
exclusively. So either the group works on a projection, or one of them (docs/adr/0006).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from kafka import ConsumerRebalanceListener
from kafka.errors import KafkaError

from eventlog.connections import (
    WRITES_REFUSED,
    Connection,
    disable_synchronous_commit,
    follow_connection,
)
from eventlog.kafka.broker import Broker, close_quietly
from eventlog.kafka.message import MalformedMessage, Origin
from eventlog.kafka.topic import RecordedTopic, load_log_id, load_topic
from eventlog.reading import RecordedEvent
from eventlog.retries import retry_until_stopped, seldom
from projections.changes import Projection
from projections.engine.install import READ_SCHEMA
from projections.engine.kafka.buffers import PartitionBuffer, ReadyEvents, TopicMoved
from projections.engine.kafka.offsets import (
    PartitionCheckpoints,
    enter_topic,
    lowest_checkpoint,
    move_checkpoints,
    move_offsets,
    skip_unused_positions,
)
from projections.engine.kafka.workspace_locks import lock_workspaces
from projections.engine.ledger.coverage import record, tally_events
from projections.engine.live.follower import (
    CannotApply,
    CheckpointMoved,
    Follower,
    apply_events,
)
from projections.engine.live.locks import (
    load_handovers,
    lock_projection,
    release_locks,
    set_holder,
    unlock_projection,
)
from projections.engine.live.planning import analyze_new_tables
from projections.engine.live.read_ahead import ReadAhead
from projections.engine.live.runner import (
    LOCK_INTERVAL_S,
    RETRY_DELAY_S,
    Batch,
    Observe,
    tables_of,
    unobserved,
)
from projections.engine.live.set_aside import SetAside

log = logging.getLogger(__name__)

POLL_MS = 50
"""How long a poll waits for messages; checkpoints are moved between polls."""
BATCH_MESSAGES = 4_000
STALLED_S = 4.0
"""A consumer that receives nothing for this long, though the topic is ahead, rejoins the group."""
SKIP_INTERVAL_S = 0.2
"""How often checkpoints are moved over positions that no event took."""


class ConsumerStalled(Exception):
    """The topic is ahead but the consumer receives nothing, so it must rejoin the group.

    kafka-python (3.0.12) can lose an assignment if only a change of metadata triggered it and the
    poll that waited for it timed out: the member then neither reads nor sends heartbeats.
    """


ROLLED_BACK = (
    CheckpointMoved,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
)
"""Errors after which a batch was rolled back and is read again from the offsets in PostgreSQL."""
CONNECTION_LOST = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    *WRITES_REFUSED,
    KafkaError,
    MalformedMessage,
    TopicMoved,
    ConsumerStalled,
)
"""Errors after which the consumer starts again with new connections. If they persist, lag grows."""

EventGroups = list[tuple[list[str], list[RecordedEvent]]]
"""Names of projections that are equally far, and the events that are new to them."""


@dataclass(frozen=True)
class _Polled:
    """What a poll has returned."""

    messages: int
    ready: list[ReadyEvents]
    """The events up to the last mark of each partition; none if the partitions have changed."""


class _Assignment(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notices that the group has reassigned the partitions."""

    def __init__(self) -> None:
        self.changed = threading.Event()

    def on_partitions_revoked(self, revoked: object) -> None:
        self.changed.set()

    def on_partitions_assigned(self, assigned: object) -> None:
        self.changed.set()


class GroupEngine:
    """A member of the consumer group: keeps projections up to date in its assigned partitions.

    Not thread-safe except for `stop`. Members in several processes share the partitions.
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
        self._set_aside = SetAside(self._versions, shared=True)
        self._batch_messages = batch_messages
        self._stopped = threading.Event()
        self._holder = f"kafka:{broker.group}:{socket.gethostname()}:{os.getpid()}"
        self._followers: dict[str, Follower] = {}
        self._checkpoints: PartitionCheckpoints = {}
        self._buffers: dict[int, PartitionBuffer] = {}
        self._topic = RecordedTopic("", 0, 0, 0, 0)
        self._lowest: int | None = None
        self._observe = observe

    def stop(self) -> None:
        """Finish the current batch and return from `run`."""
        self._stopped.set()

    def run(self) -> None:
        """Consume until stopped; reconnect, with a warning, if database or broker are lost."""
        retry_until_stopped(
            self._connect_and_consume,
            self._stopped,
            errors=CONNECTION_LOST,
            delay_s=RETRY_DELAY_S,
            on_error=seldom(
                lambda error: log.warning("consuming stopped and is retried: %r", error)
            ),
        )

    def _connect_and_consume(self) -> None:
        with follow_connection(self._url, application_name="annals-apply") as connection:
            disable_synchronous_commit(connection)
            try:
                self._consume(connection)
            finally:
                release_locks(connection)

    def _consume(self, connection: Connection) -> None:
        self._followers, self._buffers = {}, {}
        if not self._await_topic(connection):
            return
        assignment = _Assignment()
        consumer = self._broker.member(self._batch_messages)
        try:
            consumer.subscribe([self._broker.topic], listener=assignment)
            consumer.partitions_for_topic(self._broker.topic)  # loads metadata before joining
            self._follow(connection, consumer, assignment)
        finally:
            close_quietly(consumer)

    def _await_topic(self, connection: Connection) -> bool:
        """Wait until a relay has published to the topic; False if stopped before."""
        has_warned = False
        while not self._stopped.is_set():
            if load_topic(connection, self._broker.topic) is not None:
                return True
            if not has_warned:
                log.warning("nothing was published to %s yet: run annals relay", self._broker.topic)
            has_warned = True
            self._stopped.wait(LOCK_INTERVAL_S)
        return False

    def _follow(self, connection: Connection, consumer: Any, assignment: _Assignment) -> None:
        with ReadAhead[_Polled]() as ahead:
            self._poll_and_apply(connection, consumer, assignment, ahead)

    def _poll_and_apply(
        self,
        connection: Connection,
        consumer: Any,
        assignment: _Assignment,
        ahead: ReadAhead[_Polled],
    ) -> None:
        def poll() -> _Polled:
            return self._poll(consumer, assignment)

        locked_at = skipped_at = -LOCK_INTERVAL_S
        polled_at = time.monotonic()
        while not self._stopped.is_set():
            has_changed = self._hand_over(connection)
            if time.monotonic() - locked_at >= LOCK_INTERVAL_S:
                locked_at = time.monotonic()
                has_changed = self._lock_free(connection) or has_changed
                analyze_new_tables(connection, READ_SCHEMA, tables_of(self._followers.values()))
            polled = ahead.take() or poll()
            if assignment.changed.is_set() or has_changed:
                assignment.changed.clear()
                self._begin(connection, consumer)
                continue
            if polled.ready:
                ahead.begin(poll)
                if not self._applied(connection, polled.ready):
                    ahead.take()
                    self._begin(connection, consumer)
            if polled.messages:
                polled_at = time.monotonic()
            elif time.monotonic() - polled_at > STALLED_S:
                polled_at = time.monotonic()
                self._require_end_of_topic(connection)
            if not polled.messages and time.monotonic() - skipped_at >= SKIP_INTERVAL_S:
                skipped_at = time.monotonic()
                move_checkpoints(connection, self._broker.topic, self._followers)
                skip_unused_positions(connection, self._followers)

    def _require_end_of_topic(self, connection: Connection) -> None:
        """Raise `ConsumerStalled` if the topic holds events that this consumer lacks."""
        topic = load_topic(connection, self._broker.topic)
        if not self._followers or topic is None:
            return
        lowest = lowest_checkpoint(connection, self._followers)
        applied = (buffer.applied_upto for buffer in self._buffers.values())
        reached = min(applied, default=lowest or 0)
        has_moved, self._lowest = lowest != self._lowest, lowest
        if topic.generation != self._topic.generation or (
            reached < topic.position and (self._buffers or not has_moved)
        ):
            raise ConsumerStalled(f"at position {reached} of {topic.position}")

    # Which projections to work on

    def _lock_free(self, connection: Connection) -> bool:
        """Lock the projections that no process holds exclusively. True if there were any."""
        is_any_locked = False
        passed_over = load_handovers(connection) | self._set_aside.names(connection)
        for name in self._projections.keys() - self._followers.keys() - passed_over:
            if lock_projection(connection, name, shared=True):
                self._open_follower(connection, name)
            if name in self._followers:
                set_holder(connection, name, self._holder, self._versions.get(name))
                is_any_locked = True
        return is_any_locked

    def _leave_alone(self, connection: Connection, problem: CannotApply) -> None:
        self._followers.pop(problem.name, None)
        self._set_aside.add(connection, problem)

    def _hand_over(self, connection: Connection) -> bool:
        """Unlock the projections that a swap waits for. True if there were any."""
        handed_over = load_handovers(connection) & self._followers.keys()
        for name in handed_over:
            unlock_projection(connection, name, shared=True)
            del self._followers[name]
        return bool(handed_over)

    def _open_follower(self, connection: Connection, name: str) -> None:
        """Open or renew the follower of a locked projection; it is removed if it is set aside."""
        self._followers.pop(name, None)
        follower = self._set_aside.open_follower(connection, self._projections[name])
        if follower is not None:
            self._followers[name] = follower

    # Where to read

    def _begin(self, connection: Connection, consumer: Any) -> None:
        """Read each assigned partition from the offsets that PostgreSQL holds now."""
        name = self._broker.topic
        topic = load_topic(connection, name)
        assert topic is not None
        self._topic = topic
        self._checkpoints = {}
        for each in list(self._followers):
            try:
                self._checkpoints[each] = enter_topic(
                    connection, self._projections[each], name, topic
                )
            except CannotApply as problem:
                self._leave_alone(connection, problem)
            else:  # after the offsets, which move when an entity is parked
                self._open_follower(connection, each)
        self._checkpoints = {each: self._checkpoints[each] for each in self._followers}
        origin = Origin(load_log_id(connection), topic.generation, 0)
        assigned = {each.partition: each for each in consumer.assignment()}
        self._buffers = {}
        for partition in assigned if self._followers else ():
            buffer = self._buffers[partition] = self._open_buffer(partition, origin)
            consumer.seek(assigned[partition], buffer.next_offset)
        idle = [each for number, each in assigned.items() if number not in self._buffers]
        consumer.pause(*idle)
        consumer.resume(*(assigned[number] for number in self._buffers))

    def _open_buffer(self, partition: int, origin: Origin) -> PartitionBuffer:
        checkpoints = [by_partition[partition] for by_partition in self._checkpoints.values()]
        first = min(checkpoints, key=lambda checkpoint: checkpoint.next_offset)
        return PartitionBuffer(
            partition,
            first.next_offset,
            Origin(origin.log_id, origin.generation, first.epoch),
            min(checkpoint.position for checkpoint in checkpoints),
        )

    # A batch

    def _poll(self, consumer: Any, assignment: _Assignment) -> _Polled:
        """Poll, and take the events that are ready from the buffers. It may run in a thread."""
        polled: Mapping[Any, list[Any]] = consumer.poll(timeout_ms=POLL_MS)
        messages = sum(map(len, polled.values()))
        if assignment.changed.is_set():
            return _Polled(messages, [])
        for partition, received in polled.items():
            if partition.partition in self._buffers:
                self._buffers[partition.partition].add(received)
        ready = [buffer.take() for buffer in self._buffers.values() if buffer.is_ready]
        return _Polled(messages, ready)

    def _applied(self, connection: Connection, ready: list[ReadyEvents]) -> bool:
        """Apply events; False if they were rolled back and must be read again."""
        started = time.monotonic()
        try:
            self._apply(connection, ready)
            move_checkpoints(connection, self._broker.topic, self._followers)
        except ROLLED_BACK as error:
            log.warning("a batch was rolled back and is read again: %r", error)
            self._stopped.wait(RETRY_DELAY_S)
            return False
        except CannotApply as problem:
            self._leave_alone(connection, problem)
            return False
        events = [event for each in ready for event in each.events]
        self._observe(Batch(len(events), time.monotonic() - started), events)
        return True

    def _apply(self, connection: Connection, ready: list[ReadyEvents]) -> None:
        groups = self._group(ready)
        # Consumers write in the same order to avoid deadlocks: rows that several partitions touch
        # are counters, which each statement locks in order.
        work = sorted(
            ((self._followers[name], events) for names, events in groups for name in names),
            key=lambda each: each[0].name,
        )

        @contextmanager
        def advance() -> Iterator[None]:
            lock_workspaces(connection, (event for each in ready for event in each.events))
            move_offsets(
                connection,
                self._followers,
                self._checkpoints,
                ready,
                self._broker.topic,
                self._topic,
            )
            yield
            for names, events in groups:
                record(connection, names, tally_events(events))

        apply_events(connection, work, advance)
        for by_partition in self._checkpoints.values():
            for each in ready:
                before = by_partition[each.partition]
                if each.next_offset > before.next_offset:
                    by_partition[each.partition] = before.after(each)

    def _group(self, ready: list[ReadyEvents]) -> EventGroups:
        """Group the projections by how far they are."""
        names_of: dict[tuple[int, ...], list[str]] = {}
        for name in sorted(self._followers):
            checkpoints = self._checkpoints[name]
            positions = tuple(checkpoints[each.partition].position for each in ready)
            names_of.setdefault(positions, []).append(name)
        return [
            (
                names,
                [
                    event
                    for each, position in zip(ready, positions, strict=True)
                    for event in each.events
                    if event.position > position
                ],
            )
            for positions, names in names_of.items()
        ]
