"""Clients of the broker with their options for kafka-python; every wait is bounded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

TOPIC = "annals.events"
GROUP = "annals-projectors"
CONNECT_TIMEOUT_MS = 10_000
REQUEST_TIMEOUT_MS = 10_000
DELIVERY_TIMEOUT_MS = 30_000
"""A message that is not acknowledged in this time makes the relay restart at the last mark."""
RECONNECT_MAX_MS = 1_000
LINGER_MS = 5
PRODUCE_BATCH_BYTES = 256 << 10
MESSAGE_MAX_BYTES = 16 << 20
"""More than any event needs: a request body is at most 1 MiB."""
FETCH_WAIT_MS = 100
FETCH_PARTITION_BYTES = 4 << 20
SESSION_TIMEOUT_MS = 6_000
"""After this time without heartbeats, the group gives a consumer's partitions to others."""
HEARTBEATS_PER_SESSION = 3
POLL_INTERVAL_MAX_MS = 120_000
"""A consumer that works longer on one batch loses its partitions."""
CLOSE_WAIT_S = 2.0


@dataclass(frozen=True)
class Broker:
    """How to reach Kafka, and which topic and group to use."""

    bootstrap: str
    """`host:port`, or several, separated by commas."""
    topic: str = TOPIC
    group: str = GROUP
    session_timeout_ms: int = SESSION_TIMEOUT_MS
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = None
    ssl_cafile: str | None = None

    def producer(self) -> Any:
        """Make an idempotent producer that waits for all replicas."""
        return KafkaProducer(
            **self._common("annals-relay"),
            acks="all",
            enable_idempotence=True,
            linger_ms=LINGER_MS,
            batch_size=PRODUCE_BATCH_BYTES,
            max_request_size=MESSAGE_MAX_BYTES,
            delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
            max_block_ms=CONNECT_TIMEOUT_MS,
            allow_auto_create_topics=False,
        )

    def reader(self) -> Any:
        """Make a consumer without a group, for callers that choose partitions and offsets."""
        return KafkaConsumer(
            **self._common("annals-reader"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            max_partition_fetch_bytes=FETCH_PARTITION_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )

    def member(self, records_max: int) -> Any:
        """Make a consumer of the group. It commits no offsets: PostgreSQL has them."""
        return KafkaConsumer(
            **self._common("annals-project"),
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            max_poll_records=records_max,
            max_partition_fetch_bytes=FETCH_PARTITION_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_poll_interval_ms=POLL_INTERVAL_MAX_MS,
            session_timeout_ms=self.session_timeout_ms,
            heartbeat_interval_ms=self.session_timeout_ms // HEARTBEATS_PER_SESSION,
        )

    @contextlib.contextmanager
    def admin(self) -> Iterator[Any]:
        """Open a client that creates, describes and deletes topics."""
        client = KafkaAdminClient(**self._common("annals-admin"))
        try:
            yield client
        finally:
            client.close()

    def partitions(self, numbers: Iterable[int]) -> list[Any]:
        """The partitions of the topic with these numbers, for kafka-python."""
        return [TopicPartition(self.topic, number) for number in numbers]

    def _common(self, client_id: str) -> dict[str, Any]:
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","),
            "client_id": client_id,
            "bootstrap_timeout_ms": CONNECT_TIMEOUT_MS,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "reconnect_backoff_max_ms": RECONNECT_MAX_MS,
            "security_protocol": self.security_protocol,
        }
        given = {
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password,
            "ssl_cafile": self.ssl_cafile,
        }
        return options | {name: value for name, value in given.items() if value}


def close_quietly(client: Any) -> None:
    """Close a producer or consumer, and drop unsent messages if the broker is lost."""
    with contextlib.suppress(KafkaError):
        if isinstance(client, KafkaProducer):
            client.close(timeout=CLOSE_WAIT_S)
        else:
            client.close(autocommit=False, timeout_ms=CLOSE_WAIT_S * 1000)
