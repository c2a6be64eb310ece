"""The relay: publishes the log to the topic, all of it, in order, never ahead of what is committed.

It works in windows: some events, each to the partition of its account; when all are acknowledged, a
mark to every partition; when those are, its place is noted in PostgreSQL. A producer may lose a
message and deliver the next one (after an expired batch it begins anew), so only a mark says that
nothing before it is missing. After a crash the window begins again: messages may be doubled, and
readers tell by the position. Each relay has an epoch, and readers ignore what an earlier one sends
late.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import psycopg
from kafka.errors import KafkaError

from eventlog.connections import Connection, follow_connection
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
    create_topic,
    find_topic,
    known,
    log_id,
    next_epoch,
    remember,
    require_same,
)
from eventlog.locks import RELAY_LOCK, try_lock
from eventlog.reading import read_rows_after
from eventlog.reading.digests import digests_at
from eventlog.reading.positions import last_visible_position

log = logging.getLogger(__name__)

WINDOW_EVENTS = 4_000
"""Most events between two marks; readers hold a window in memory."""
PAUSE_S = 0.005
"""After a window that was not full: what is appended meanwhile shares the next one."""
POLL_INTERVAL_S = 0.2
"""How long a relay that hears no hint waits before it looks by itself."""
WAIT_FOR_OTHER_S = 0.5
"""How often a second relay asks whether the first is gone."""
RETRY_DELAY_S = 0.5
HEARTBEAT_S = 2.0
"""How often a relay with nothing to do says that it is there, and looks whether the topic is."""
INDEX_EVENTS = 20_000
"""After so many events the place of a mark is noted, for readers that begin in the middle."""
FLUSH_WAIT_S = DELIVERY_TIMEOUT_MS / 1000 + 5

PUBLISHED = """
UPDATE kafka_topics SET position = %s, updated_at = clock_timestamp()
 WHERE topic = %s AND generation = %s AND epoch = %s
"""
INDEX_MARK = """
INSERT INTO kafka_marks (topic, generation, position, offsets) VALUES (%s, %s, %s, %s)
    ON CONFLICT (topic, generation, position) DO UPDATE SET offsets = excluded.offsets
"""


class Interrupted(Exception):
    """Something was not acknowledged, or another relay took over: begin again at the last mark."""


class Relay:
    """Publishes one log to one topic. Not thread-safe but for `stop`."""

    def __init__(
        self,
        url: str,
        broker: Broker,
        *,
        partitions: int = PARTITIONS,
        anew: bool = False,
        window_events: int = WINDOW_EVENTS,
    ) -> None:
        """`url` is of the projector's role. `partitions` counts where the topic is made."""
        self._url = url
        self._broker = broker
        self._partitions = partitions
        self._anew = anew
        self._window_events = window_events
        self._stopped = threading.Event()
        self.published = 0
        """Events published by this object; doubled ones count twice."""

    def stop(self) -> None:
        """Finish the window at hand and return from `run`."""
        self._stopped.set()

    def run(self, *, once: bool = False) -> None:
        """Publish until stopped; `once`: until the end of the log. Waits for lost servers.

        Raises `TopicRefused` where the topic is not the one that was published to.
        """
        while not self._stopped.is_set():
            try:
                with follow_connection(self._url, application_name="annals-relay") as connection:
                    if self._take_turn(connection) and self._relay(connection, once):
                        return
            except (psycopg.OperationalError, psycopg.InterfaceError, KafkaError, Interrupted) as e:
                log.warning("relaying stopped and is tried again: %s: %s", type(e).__name__, e)
                self._stopped.wait(RETRY_DELAY_S)

    def _take_turn(self, connection: Connection) -> bool:
        while not self._stopped.is_set():
            if try_lock(connection, RELAY_LOCK, self._broker.topic):
                return True
            self._stopped.wait(WAIT_FOR_OTHER_S)
        return False

    def _relay(self, connection: Connection, once: bool) -> bool:
        """Whether the end was reached that was asked for."""
        topic = self._prepare(connection)
        start = self._verify(connection, topic)
        topic = next_epoch(connection, self._broker.topic)
        origin = Origin(log_id(connection), topic.generation, topic.epoch)
        log.info("relaying from position %s, epoch %s", start, topic.epoch)
        producer = self._broker.producer()
        try:
            window = Window(producer, self._broker.topic, topic.partitions, origin)
            self._note(connection, origin, start, window.mark(start))
            return self._follow(connection, window, start, once)
        finally:
            close_quietly(producer)

    def _follow(self, connection: Connection, window: Window, position: int, once: bool) -> bool:
        connection.execute(f"LISTEN {APPENDED}")
        indexed = self.published
        heartbeat_at = time.monotonic() + HEARTBEAT_S
        while not self._stopped.is_set():
            page = read_rows_after(connection, position, self._window_events)
            if page.rows:
                window.publish(page.rows)
                # The last event's and not page.upto: a crash of the server may give out anew what
                # no event took (eventlog/reading.py).
                position = page.rows[-1][0]
                offsets = window.mark(position)
                self.published += len(page.rows)
                due = self.published - indexed >= INDEX_EVENTS
                self._note(connection, window.origin, position, offsets if due else None)
                indexed = self.published if due else indexed
            elif once:
                return True
            elif time.monotonic() > heartbeat_at:
                heartbeat_at = time.monotonic() + HEARTBEAT_S
                self._require_topic(connection)
                self._note(connection, window.origin, position, None)
            else:
                wait_for_hint(connection, POLL_INTERVAL_S)
            if page.rows and not page.more:
                self._stopped.wait(PAUSE_S)
        return True

    def _prepare(self, connection: Connection) -> RecordedTopic:
        """The topic, made where it never was. Raises `TopicRefused`."""
        name = self._broker.topic
        before = known(connection, name)
        with self._broker.admin() as admin:
            found = find_topic(admin, name)
            if self._anew and found is not None:
                admin.delete_topics([name])
            if self._anew or (before is None and found is None):
                found = create_topic(admin, name, self._partitions)
                remember(connection, name, found)
                self._anew = False
            elif before is None and found is not None:
                self._require_empty(found.partitions)
                remember(connection, name, found)
            else:
                assert before is not None
                require_same(name, before, found)
        topic = known(connection, name)
        assert topic is not None
        return topic

    def _require_topic(self, connection: Connection) -> None:
        before = known(connection, self._broker.topic)
        with self._broker.admin() as admin:
            found = find_topic(admin, self._broker.topic)
        if before is not None:
            require_same(self._broker.topic, before, found)

    def _require_empty(self, partitions: int) -> None:
        for tail in self._tails(partitions):
            if tail.end > 0:
                origins = ", ".join(origin.log_id for origin in tail.marks) or "unknown"
                raise TopicRefused(
                    f"Topic {self._broker.topic} holds messages that this database knows nothing"
                    f" of (of log {origins}); choose another topic with ANNALS_KAFKA_TOPIC."
                )

    def _verify(self, connection: Connection, topic: RecordedTopic) -> int:
        """The position from which to go on. Raises `TopicRefused`."""
        name, mine = self._broker.topic, log_id(connection)
        tails = self._tails(topic.partitions)
        for tail in tails:
            others = {origin.log_id for origin in tail.marks} - {mine}
            if others:
                raise TopicRefused(
                    f"Topic {name} belongs to another log, {others.pop()}; this one is {mine}."
                )
            if tail.highest < topic.position:
                raise TopicRefused(
                    f"Topic {name} has lost messages: partition {tail.partition} ends at position"
                    f" {tail.highest}, and {topic.position} was published; annals relay --anew"
                    " makes it again and publishes all of the log."
                )
        _require_same_events(connection, name, tails)
        current = Origin(mine, topic.generation, topic.epoch)
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

    def _note(
        self, connection: Connection, origin: Origin, position: int, offsets: list[int] | None
    ) -> None:
        """Note what is published; `offsets` of its marks where they are to be found again."""
        name = self._broker.topic
        with connection.transaction():
            parameters = (position, name, origin.generation, origin.epoch)
            if connection.execute(PUBLISHED, parameters, prepare=True).rowcount != 1:
                raise Interrupted("another relay has begun")
            if offsets:
                connection.execute(INDEX_MARK, (name, origin.generation, position, offsets))


class Window:
    """What is sent together: all of it is acknowledged, or `Interrupted` is raised."""

    def __init__(self, producer: Any, topic: str, partitions: int, origin: Origin) -> None:
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self.origin = origin
        self._reached = [-1] * partitions

    def publish(self, rows: list[LogRow]) -> None:
        """Send events and wait until all are acknowledged."""
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
        """Say in every partition that all up to the position lies before; the marks' offsets."""
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
                    f"Topic {self._topic} was deleted and made anew while it was published to:"
                    f" partition {partition} went back from offset {before} to {now}; annals relay"
                    " --anew makes it again and publishes all of the log."
                )
        self._reached = offsets
        return offsets

    def _confirm(self, futures: list[Any]) -> None:
        self._producer.flush(timeout=FLUSH_WAIT_S)
        for future in futures:
            if not future.succeeded():
                raise Interrupted(f"not acknowledged: {future.exception}")


def _require_same_events(connection: Connection, topic: str, tails: list[Tail]) -> None:
    """The last events of the topic are those of the log. Raises `TopicRefused`."""
    last = dict(tail.last_event for tail in tails if tail.last_event)
    log_end = last_visible_position(connection)
    if last and max(last) > log_end:
        raise TopicRefused(
            f"Topic {topic} is ahead of the log ({max(last)}, the log ends at {log_end}): the"
            " database was restored from an older copy; annals relay --anew publishes it again."
        )
    in_log = digests_at(connection, last)
    for position, digest in last.items():
        if in_log.get(position) != digest:
            raise TopicRefused(
                f"Topic {topic} and the log differ at position {position}: one of them was changed;"
                " see annals reconcile."
            )
