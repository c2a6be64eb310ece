"""The topic: made, recognised, or refused; and what PostgreSQL knows of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from eventlog.connections import Connection
from eventlog.kafka.broker import MESSAGE_MAX_BYTES

PARTITIONS = 12
"""Of a topic that is made: by as many projectors it can be shared. It stays so for good, for the
number decides in which partition an account is."""
REPLICATION = -1
"""As the broker is set up."""
CREATE_WAIT_S = 20.0
CREATE_PAUSE_S = 0.2

TOPIC_CONFIG = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "max.message.bytes": str(MESSAGE_MAX_BYTES),
}
"""Nothing is ever thrown away: whoever comes new reads from the first event on."""

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
    """The topic is not what was published before. Says in one sentence what it is."""


@dataclass(frozen=True)
class RecordedTopic:
    """What PostgreSQL knows of the topic."""

    topic_id: str
    partitions: int
    generation: int
    epoch: int
    position: int
    """All events up to here are in the topic, acknowledged."""


@dataclass(frozen=True)
class BrokerTopic:
    """What the broker knows of the topic."""

    topic_id: str
    partitions: int


def log_id(connection: Connection) -> str:
    """What tells this log from every other."""
    row = connection.execute(SELECT_LOG_ID).fetchone()
    assert row is not None, "run annals migrate"
    return str(row[0])


def known(connection: Connection, topic: str) -> RecordedTopic | None:
    """The topic as it was published to; None where it never was."""
    row = connection.execute(SELECT_TOPIC, (topic,), prepare=True).fetchone()
    return RecordedTopic(*row) if row else None


def find_topic(admin: Any, topic: str) -> BrokerTopic | None:
    """The topic as it is; None where there is none. Raises `KafkaError`."""
    for described in admin.describe_topics([topic]):
        if described["name"] == topic and described["error_code"] == 0:
            return BrokerTopic(described["topic_id"], len(described["partitions"]))
    return None


def create_topic(admin: Any, topic: str, partitions: int) -> BrokerTopic:
    """Make the topic; one that is being deleted is waited for. Raises `KafkaError`."""
    wanted = NewTopic(topic, partitions, REPLICATION, topic_configs=TOPIC_CONFIG)
    until = time.monotonic() + CREATE_WAIT_S
    while True:
        try:
            admin.create_topics([wanted], wait_for_metadata=True)
        except TopicAlreadyExistsError:
            if time.monotonic() > until:
                raise
        else:
            break
        time.sleep(CREATE_PAUSE_S)
    while (found := find_topic(admin, topic)) is None or found.partitions < partitions:
        if time.monotonic() > until:
            raise KafkaError(f"{topic} was made and is not there")
        time.sleep(CREATE_PAUSE_S)
    return found


def remember(connection: Connection, topic: str, found: BrokerTopic) -> None:
    """From now on this is the topic, and nothing has been published to it."""
    parameters = {"topic": topic, "id": found.topic_id, "partitions": found.partitions}
    connection.execute(INSERT_TOPIC, parameters)


def next_epoch(connection: Connection, topic: str) -> RecordedTopic:
    """A relay begins: what those before it send late counts no more."""
    row = connection.execute(NEXT_EPOCH, (topic,)).fetchone()
    assert row is not None
    return RecordedTopic(*row)


def require_same(topic: str, before: RecordedTopic, found: BrokerTopic | None) -> None:
    """The topic is the one that was published to. Raises `TopicRefused`."""
    if found is None:
        raise TopicRefused(
            f"Topic {topic} is gone, though events up to position {before.position} were published"
            " to it; annals relay --anew makes it again and publishes all of the log."
        )
    if found.topic_id != before.topic_id:
        raise TopicRefused(
            f"Topic {topic} was deleted and made anew by somebody else; annals relay --anew"
            " makes it again and publishes all of the log."
        )
    if found.partitions != before.partitions:
        raise TopicRefused(
            f"Topic {topic} has {found.partitions} partitions and had {before.partitions}, so that"
            " accounts would change partitions; annals relay --anew publishes all of the log again."
        )


def start_offsets(
    connection: Connection, topic: RecordedTopic, name: str, position: int
) -> list[int]:
    """For each partition, an offset at or before all that lies after the position."""
    row = connection.execute(SELECT_MARK, (name, topic.generation, position)).fetchone()
    return list(row[0]) if row else [0] * topic.partitions
