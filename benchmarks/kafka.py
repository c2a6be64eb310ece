"""Events per second through Kafka: relayed, and consumed by 1, 2 and 4 processes of one group.

    python -m benchmarks.kafka [--events 60000] [--sizes 1 2 4]

Each size has a topic with that number of partitions and a group with that number of processes,
which keep all read tables up to date. For comparison, the same run measures (i) kafka-python alone,
which produces and reads the same messages in one process, and (ii) one process of the engine that
follows the log. A new broker and a new PostgreSQL run on this machine and share its cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import psycopg

from benchmarks.generated import database, fill_log
from eventlog.connections import follow_connection
from eventlog.kafka.broker import Broker
from eventlog.kafka.message import Origin, encode, headers, partition_key
from eventlog.kafka.relay import Relay
from eventlog.kafka.tail import read_between
from eventlog.kafka.topic import create_topic
from eventlog.locks import REBUILD_LOCK
from eventlog.reading import read_rows_after
from eventlog.retries import poll_until
from projections.engine.kafka.consumer import GroupEngine
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from tests.support.kafka_broker import running_kafka

JOIN_WAIT_S = 60.0
CONSUME_WAIT_S = 600.0
POLL_S = 0.02
BATCH_EVENTS = 4_000

CONSUMED = "SELECT coalesce(min(position), 0) FROM projections"
BEGUN = "SELECT count(*) FROM projection_offsets WHERE position > 0"
MEMBERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'annals-apply'"


def kafka_alone(url: str, bootstrap: str, events: int) -> tuple[float, float]:
    """Return the messages per second that kafka-python alone produces and reads."""
    broker = Broker(bootstrap, topic="bare")
    with follow_connection(url, application_name="benchmark") as connection:
        rows = read_rows_after(connection, 0, events).rows
    with broker.admin() as admin:
        create_topic(admin, broker.topic, 1)
    origin = Origin("bare", 1, 1)
    messages = [
        (partition_key(row).encode(), encode(row), headers(row[4], row[0], origin)) for row in rows
    ]
    producer = broker.producer()
    started = time.monotonic()
    for key, value, head in messages:
        producer.send(broker.topic, key=key, value=value, headers=head, partition=0)
    producer.flush()
    produced = len(messages) / (time.monotonic() - started)
    producer.close()
    reader = broker.reader()
    started = time.monotonic()
    read = sum(1 for _ in read_between(reader, broker.partitions([0])[0], 0, len(messages)))
    consumed = read / (time.monotonic() - started)
    reader.close()
    return produced, consumed


def follow_log(url: str, events: int) -> float:
    """Return the events per second of the engine that follows the log."""
    started = time.monotonic()
    ProjectionEngine(url, PROJECTIONS.values(), batch_events=BATCH_EVENTS).catch_up()
    return events / (time.monotonic() - started)


def relay(url: str, broker: Broker, partitions: int, events: int) -> float:
    """Return the events per second of the relay, including its start."""
    started = time.monotonic()
    Relay(url, broker, partitions=partitions).run(once=True)
    return events / (time.monotonic() - started)


def consume(url: str, broker: Broker, processes: int, events: int) -> float:
    """Return a group's events per second, from the first batch to the end of the log."""
    spawn = multiprocessing.get_context("spawn")
    with psycopg.connect(url, autocommit=True) as connection:
        # The members join the group and wait while a swap seems to be in progress.
        connection.execute(
            "SELECT pg_advisory_lock(%s, hashtext(name)) FROM projections", (REBUILD_LOCK,)
        )
        connection.execute("UPDATE projections SET state = 'handover'")
        members = [spawn.Process(target=_member, args=(url, broker)) for _ in range(processes)]
        for member in members:
            member.start()
        _require(lambda: _number(connection, MEMBERS) == processes, JOIN_WAIT_S)
        time.sleep(broker.session_timeout_ms / 1000)
        connection.execute("UPDATE projections SET state = 'live'")
        connection.execute("SELECT pg_advisory_unlock_all()")
        _require(lambda: _number(connection, BEGUN) > 0, JOIN_WAIT_S)
        started = time.monotonic()
        already = _number(connection, CONSUMED)
        _require(lambda: _number(connection, CONSUMED) >= events, CONSUME_WAIT_S)
        took_s = time.monotonic() - started
        for member in members:
            member.terminate()
            member.join()
    return (events - already) / took_s


def _member(url: str, broker: Broker) -> None:
    GroupEngine(url, PROJECTIONS.values(), broker).run()


def reset_read_tables(url: str) -> None:
    """Reset the read tables to their state before the first event."""
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'read'")
        for (table,) in tables.fetchall():
            connection.execute(f"TRUNCATE read.{table}".encode())
        for name in ("projection_coverage", "projection_offsets", "projection_parked"):
            connection.execute(f"DELETE FROM {name}".encode())
        connection.execute("UPDATE projections SET position = 0")


def _require(condition: Callable[[], bool], wait_s: float) -> None:
    if not poll_until(condition, wait_s, POLL_S):
        raise TimeoutError(f"the group is not ready after {wait_s:.0f} s")


def _number(connection: psycopg.Connection[Any], statement: str) -> int:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return int(row[0])


def main() -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    events: int = options.events
    with database() as urls, running_kafka() as kafka:
        fill_log(urls.app, events)
        produced, read = kafka_alone(urls.projector, kafka.bootstrap, events)
        log = follow_log(urls.projector, events)
        print(f"{events} events, {os.cpu_count()} cores")
        print(f"kafka-python alone   produced {produced:8,.0f}/s   read {read:8,.0f}/s")
        print(f"engine on the log                          consumed {log:8,.0f}/s")
        first: tuple[float, float] | None = None
        for size in options.sizes:
            reset_read_tables(urls.projector)
            broker = Broker(kafka.bootstrap, topic=f"size-{size}", group=f"size-{size}",
                            session_timeout_ms=2_000)  # fmt: skip
            rates = (
                relay(urls.projector, broker, size, events),
                consume(urls.projector, broker, size, events),
            )
            first = first or rates
            print(
                f"{size} partitions, {size} processes   relayed {rates[0]:8,.0f}/s"
                f" ({rates[0] / produced:.2f} of alone)   consumed {rates[1]:8,.0f}/s"
                f" ({rates[1] / log:.2f} of the log's, {rates[1] / first[1]:.2f} of the first)"
            )


if __name__ == "__main__":
    main()
