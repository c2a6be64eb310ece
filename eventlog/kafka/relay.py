"""The relay: publishes every committed event of the log to the topic, in order.

It works in windows. It sends some events, each to the partition of its account. After they are
acknowledged, it sends a mark to every partition. After the marks are acknowledged, it records its
position in PostgreSQL. A producer may lose a message and still deliver the next one (after a batch
expires), so only a mark proves that nothing before it is missing. After a crash the window is sent
again, and readers recognise doubled messages by their position. Each relay has an epoch, and
readers ignore late messages of earlier epochs.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import psycopg
from kafka.errors import KafkaError

from eventlog.connections import WRITES_REFUSED, Connection, follow_connection
from eventlog.hints import APPENDED, wait_for_hint
from eventlog.kafka.broker import DELIVERY_TIMEOUT_MS, Broker, close_quietly
from eventlog.kafka.message import (
    MARK_TOPIC,
    LogRow,
    MalformedMessage,
    Origin,
    encode,
    encode_mark,
    headers,
    partition_key,
    partition_of,
)
from eventlog.kafka.tail import Tail, read_tails
from eventlog.kafka.topic import (
    PARTITIONS,
    RecordedTopic,
    TopicRefused,
    begin_epoch,
    create_topic,
    find_topic,
    load_log_id,
    load_topic,
    record_topic,
    require_same_topic,
)
from eventlog.locks import RELAY_LOCK, try_lock
from eventlog.reading import read_rows_after
from eventlog.reading.digests import digests_at
from eventlog.reading.positions import last_visible_position
from eventlog.retries import retry_until_stopped, seldom

log = logging.getLogger(__name__)

WINDOW_EVENTS = 4_000
"""Maximum number of events between two marks. Readers hold a window in memory."""
PAUSE_S = 0.005
"""Pause after a window that was not full, so that the next one has more events."""
POLL_INTERVAL_S = 0.2
"""How often the relay reads the log if no hint comes."""
WAIT_FOR_OTHER_S = 0.5
"""How often a second relay tries to take the lock of the first."""
RETRY_DELAY_S = 0.5
HEARTBEAT_S = 2.0
"""How often an idle relay checks that the topic still exists, and records that it runs."""
INDEX_EVENTS = 20_000
"""Events after which the offsets of a mark are recorded, for readers that start in the middle."""
FLUSH_WAIT_S = DELIVERY_TIMEOUT_MS / 1000 + 5

RECORD_POSITION = """
UPDATE kafka_topics SET position = %s, updated_at = clock_timestamp()
 WHERE topic = %s AND generation = %s AND epoch = %s
"""
RECORD_MARK = """
INSERT INTO kafka_marks (topic, generation, position, offsets) VALUES (%s, %s, %s, %s)
    ON CONFLICT (topic, generation, position) DO UPDATE SET offsets = excluded.offsets
"""


class Interrupted(Exception):
    """A message was not acknowledged, or another relay took over: restart at the last mark."""


LOST = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    *WRITES_REFUSED,
    KafkaError,
    Interrupted,
)
"""Errors after which the relay connects again and starts at the last mark."""


class Relay:
    """Publishes a log to a topic. Only `stop` is thread-safe."""

    def __init__(
        self,
        url: str,
        broker: Broker,
        *,
        partitions: int = PARTITIONS,
        recreate: bool = False,
        window_events: int = WINDOW_EVENTS,
    ) -> None:
        """url: of the projector's role. partitions: number for a new topic. recreate: replace the
        topic, and publish the whole log again."""
        self._url = url
        self._broker = broker
        self._partitions = partitions
        self._recreate = recreate
        self._window_events = window_events
        self._stopped = threading.Event()
        self.published = 0
        """Events published so far; doubled ones count twice."""

    def stop(self) -> None:
        """Make `run` return after the current window."""
        self._stopped.set()

    def run(self, *, once: bool = False) -> None:
        """Publish until stopped; with `once`, until the end of the log. Reconnects to lost servers.

        Raises `TopicRefused` if the topic is not the one that was published to.
        """

        def relay() -> None:
            with follow_connection(self._url, application_name="annals-relay") as connection:
                if self._wait_for_lock(connection):
                    self._relay(connection, once)

        def report(error: BaseException) -> None:
            log.warning("the relay stopped and is tried again: %s: %s", type(error).__name__, error)

        retry_until_stopped(
            relay, self._stopped, errors=LOST, delay_s=RETRY_DELAY_S, on_error=seldom(report)
        )

    def _wait_for_lock(self, connection: Connection) -> bool:
        while not self._stopped.is_set():
            if try_lock(connection, RELAY_LOCK, self._broker.topic):
                return True
            self._stopped.wait(WAIT_FOR_OTHER_S)
        return False

    def _relay(self, connection: Connection, once: bool) -> None:
        topic = self._prepare(connection)
        start = self._verify(connection, topic)
        topic = begin_epoch(connection, self._broker.topic)
        origin = Origin(load_log_id(connection), topic.generation, topic.epoch)
        log.info("relaying from position %s, epoch %s", start, topic.epoch)
        producer = self._broker.producer()
        try:
            window = Window(producer, self._broker.topic, topic.partitions, origin)
            self._record(connection, origin, start, window.mark(start))
            self._follow(connection, window, start, once)
        finally:
            close_quietly(producer)

    def _follow(self, connection: Connection, window: Window, position: int, once: bool) -> None:
        connection.execute(f"LISTEN {APPENDED}")
        indexed = self.published
        heartbeat_at = time.monotonic() + HEARTBEAT_S
        while not self._stopped.is_set():
            page = read_rows_after(connection, position, self._window_events)
            if page.rows:
                window.publish(page.rows)
                # Not page.upto: after a crash the server may assign positions again that no event
                # took (eventlog/reading/follow.py).
                position = page.rows[-1][0]
                offsets = window.mark(position)
                self.published += len(page.rows)
                due = self.published - indexed >= INDEX_EVENTS
                self._record(connection, window.origin, position, offsets if due else None)
                indexed = self.published if due else indexed
            elif once:
                return
            elif time.monotonic() > heartbeat_at:
                heartbeat_at = time.monotonic() + HEARTBEAT_S
                self._require_topic(connection)
                self._record(connection, window.origin, position, None)
            else:
                wait_for_hint(connection, POLL_INTERVAL_S)
            if page.rows and not page.more:
                self._stopped.wait(PAUSE_S)

    def _prepare(self, connection: Connection) -> RecordedTopic:
        """Check or create the topic. Raises `TopicRefused`."""
        name = self._broker.topic
        recorded = load_topic(connection, name)
        with self._broker.admin() as admin:
            found = find_topic(admin, name)
            if self._recreate and found is not None:
                admin.delete_topics([name])
            if self._recreate or (recorded is None and found is None):
                found = create_topic(admin, name, self._partitions)
                record_topic(connection, name, found)
                self._recreate = False
            elif recorded is None and found is not None:
                self._require_empty(found.partitions)
                record_topic(connection, name, found)
            else:
                assert recorded is not None
                require_same_topic(name, recorded, found)
        topic = load_topic(connection, name)
        assert topic is not None
        return topic

    def _require_topic(self, connection: Connection) -> None:
        recorded = load_topic(connection, self._broker.topic)
        with self._broker.admin() as admin:
            found = find_topic(admin, self._broker.topic)
        if recorded is not None:
            require_same_topic(self._broker.topic, recorded, found)

    def _require_empty(self, partitions: int) -> None:
        for tail in self._tails(partitions):
            if tail.end > 0:
                origins = ", ".join(origin.log_id for origin in tail.marks) or "unknown"
                raise TopicRefused(
                    f"Topic {self._broker.topic} holds messages that are unknown to this database"
                    f" (of log {origins}); choose another topic with ANNALS_KAFKA_TOPIC."
                )

    def _verify(self, connection: Connection, topic: RecordedTopic) -> int:
        """Check the topic's messages; return the position to start at. Raises `TopicRefused`."""
        name, own_id = self._broker.topic, load_log_id(connection)
        tails = self._tails(topic.partitions)
        for tail in tails:
            others = {origin.log_id for origin in tail.marks} - {own_id}
            if others:
                raise TopicRefused(
                    f"Topic {name} belongs to another log, {others.pop()}; this one is {own_id}."
                )
            if tail.highest < topic.position:
                raise TopicRefused(
                    f"Topic {name} has lost messages: partition {tail.partition} ends at position"
                    f" {tail.highest}, and {topic.position} was published; annals relay --anew"
                    " replaces it and publishes the whole log."
                )
        _require_same_events(connection, name, tails)
        current = Origin(own_id, topic.generation, topic.epoch)
        return max(topic.position, min(tail.marks.get(current, 0) for tail in tails))

    def _tails(self, partitions: int) -> list[Tail]:
        reader = self._broker.reader()
        try:
            return read_tails(reader, self._broker, partitions)
        except MalformedMessage as error:
            raise TopicRefused(
                f"Topic {self._broker.topic} holds messages that no relay wrote ({error})."
            ) from None
        finally:
            close_quietly(reader)

    def _record(
        self, connection: Connection, origin: Origin, position: int, offsets: list[int] | None
    ) -> None:
        """Record how far the log is published and, if given, the offsets of the marks."""
        name = self._broker.topic
        with connection.transaction():
            parameters = (position, name, origin.generation, origin.epoch)
            if connection.execute(RECORD_POSITION, parameters, prepare=True).rowcount != 1:
                raise Interrupted("another relay has begun")
            if offsets:
                connection.execute(RECORD_MARK, (name, origin.generation, position, offsets))


class Window:
    """Sends messages, and waits until all are acknowledged. Raises `Interrupted` if one is not."""

    def __init__(self, producer: Any, topic: str, partitions: int, origin: Origin) -> None:
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self.origin = origin
        self._reached = [-1] * partitions

    def publish(self, rows: list[LogRow]) -> None:
        """Send each event to the partition of its account."""
        send, topic, partitions, origin = (
            self._producer.send, self._topic, self._partitions, self.origin,
        )  # fmt: skip
        self._confirm(
            [
                send(
                    topic,
                    key=(key := partition_key(row)).encode(),
                    value=encode(row),
                    headers=headers(row[4], row[0], origin),
                    partition=partition_of(key, partitions),
                )
                for row in rows
            ]
        )

    def mark(self, position: int) -> list[int]:
        """Send a mark at the position to every partition; return the offsets of the marks."""
        value, head = encode_mark(position), headers(MARK_TOPIC, position, self.origin)
        sent = [
            self._producer.send(self._topic, value=value, headers=head, partition=partition)
            for partition in range(self._partitions)
        ]
        self._confirm(sent)
        offsets = [future.value.offset for future in sent]
        for partition, (before, now) in enumerate(zip(self._reached, offsets, strict=True)):
            if now <= before:
                raise TopicRefused(
                    f"Topic {self._topic} was deleted and created again while it was published to:"
                    f" partition {partition} went back from offset {before} to {now}; annals relay"
                    " --anew replaces it and publishes the whole log."
                )
        self._reached = offsets
        return offsets

    def _confirm(self, futures: list[Any]) -> None:
        self._producer.flush(timeout=FLUSH_WAIT_S)
        for future in futures:
            if not future.succeeded():
                raise Interrupted(f"not acknowledged: {future.exception}")


def _require_same_events(connection: Connection, topic: str, tails: list[Tail]) -> None:
    """Check that the last events of the topic are those of the log. Raises `TopicRefused`."""
    last = dict(tail.last_event for tail in tails if tail.last_event)
    log_end = last_visible_position(connection)
    if last and max(last) > log_end:
        raise TopicRefused(
            f"Topic {topic} is ahead of the log ({max(last)}, the log ends at {log_end}): the"
            " database was restored from an older copy; annals relay --anew replaces it and"
            " publishes the whole log."
        )
    in_log = digests_at(connection, last)
    for position, digest in last.items():
        if in_log.get(position) != digest:
            raise TopicRefused(
                f"Topic {topic} and the log differ at position {position}: one of them was changed."
                " annals reconcile shows the differences."
            )
