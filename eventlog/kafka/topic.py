"""Create the topic, and recognise it by what PostgreSQL recorded of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from eventlog.connections import Connection
from eventlog.kafka.broker import MESSAGE_MAX_BYTES

PARTITIONS = 12
"""Partitions of a new topic, and so the maximum number of projectors that share it. The number is
final, because it decides in which partition an account is."""
REPLICATION = -1
"""The broker's default."""
CREATE_WAIT_S = 20.0
CREATE_PAUSE_S = 0.2

TOPIC_CONFIG = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "max.message.bytes": str(MESSAGE_MAX_BYTES),
}
"""Messages are kept for ever, because new consumers read from the first event."""

SELECT_LOG_ID = "SELECT id FROM log_identity"
SELECT_TOPIC = """
SELECT topic_id::text, partitions, generation, epoch, position FROM kafka_topics WHERE topic = %s
"""
INSERT_TOPIC = """
INSERT INTO kafka_topics AS t (topic, topic_id, partitions, generation)
VALUES (%(topic)s, %(id)s, %(partitions)s, 1)
    ON CONFLICT (topic) DO UPDATE
   SET topic_id = excluded.topic_id, partitions = excluded.partitions,
       generation = t.generation + 1, position = 0, updated_at = clock_timestamp()
"""
NEXT_EPOCH = """
UPDATE kafka_topics SET epoch = epoch + 1, updated_at = clock_timestamp() WHERE topic = %s
RETURNING topic_id::text, partitions, generation, epoch, position
"""
SELECT_MARK = """
SELECT offsets FROM kafka_marks
 WHERE topic = %s AND generation = %s AND position <= %s ORDER BY position DESC LIMIT 1
"""


class TopicRefused(Exception):
    """The topic is not the one that was published to. The message is one sentence."""


@dataclass(frozen=True)
class RecordedTopic:
    """The topic as PostgreSQL recorded it."""

    topic_id: str
    partitions: int
    generation: int
    epoch: int
    position: int
    """The position up to which the broker has acknowledged all events."""


@dataclass(frozen=True)
class BrokerTopic:
    """The topic as the broker describes it."""

    topic_id: str
    partitions: int


def load_log_id(connection: Connection) -> str:
    """Load the id of this log."""
    row = connection.execute(SELECT_LOG_ID).fetchone()
    assert row is not None, "run annals migrate"
    return str(row[0])


def load_topic(connection: Connection, topic: str) -> RecordedTopic | None:
    """Load the record of the topic; None if there is none."""
    row = connection.execute(SELECT_TOPIC, (topic,), prepare=True).fetchone()
    return RecordedTopic(*row) if row else None


def find_topic(admin: Any, topic: str) -> BrokerTopic | None:
    """Ask the broker for the topic; None if it does not exist. Raises `KafkaError`."""
    for described in admin.describe_topics([topic]):
        if described["name"] == topic and described["error_code"] == 0:
            return BrokerTopic(described["topic_id"], len(described["partitions"]))
    return None


def create_topic(admin: Any, topic: str, partitions: int) -> BrokerTopic:
    """Create the topic, after waiting for one that is being deleted. Raises `KafkaError`."""
    wanted = NewTopic(topic, partitions, REPLICATION, topic_configs=TOPIC_CONFIG)
    until = time.monotonic() + CREATE_WAIT_S
    Retrying(
        retry=retry_if_exception_type(TopicAlreadyExistsError),
        stop=stop_after_delay(CREATE_WAIT_S),
        wait=wait_fixed(CREATE_PAUSE_S),
        reraise=True,
    )(admin.create_topics, [wanted], wait_for_metadata=True)
    while (found := find_topic(admin, topic)) is None or found.partitions < partitions:
        if time.monotonic() > until:
            raise KafkaError(f"{topic} was created, but the broker does not list it")
        time.sleep(CREATE_PAUSE_S)
    return found


def record_topic(connection: Connection, topic: str, found: BrokerTopic) -> None:
    """Record a new topic, to which nothing has been published."""
    parameters = {"topic": topic, "id": found.topic_id, "partitions": found.partitions}
    connection.execute(INSERT_TOPIC, parameters)


def begin_epoch(connection: Connection, topic: str) -> RecordedTopic:
    """Begin a new epoch, from which on consumers ignore late messages of earlier relays."""
    row = connection.execute(NEXT_EPOCH, (topic,)).fetchone()
    assert row is not None
    return RecordedTopic(*row)


def require_same_topic(topic: str, recorded: RecordedTopic, found: BrokerTopic | None) -> None:
    """Check that the topic is the one that was published to. Raises `TopicRefused`."""
    if found is None:
        raise TopicRefused(
            f"Topic {topic} is gone, though events up to position {recorded.position} were"
            " published to it; annals relay --anew creates it again and publishes the whole log."
        )
    if found.topic_id != recorded.topic_id:
        raise TopicRefused(
            f"Topic {topic} was deleted and created again by somebody else; annals relay --anew"
            " replaces it and publishes the whole log."
        )
    if found.partitions != recorded.partitions:
        raise TopicRefused(
            f"Topic {topic} has {found.partitions} partitions and had {recorded.partitions}, so"
            " that accounts would change partitions; annals relay --anew replaces it and publishes"
            " the whole log."
        )


def load_start_offsets(
    connection: Connection, topic: RecordedTopic, name: str, position: int
) -> list[int]:
    """The offset in each partition from which a reader that has reached the position can start."""
    row = connection.execute(SELECT_MARK, (name, topic.generation, position)).fetchone()
    return list(row[0]) if row else [0] * topic.partitions
