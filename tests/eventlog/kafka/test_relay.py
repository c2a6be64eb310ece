"""The relay publishes the whole log in order and refuses topics that do not match it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg
import pytest

from benchmarks.generated import fill_log
from eventlog.connections import Connection
from eventlog.kafka.message import partition_of, read_head
from eventlog.kafka.reconcile import ReconcileReport, reconcile
from eventlog.kafka.relay import Relay
from eventlog.kafka.topic import TopicRefused, create_topic, load_topic
from tests.support.databases import Urls
from tests.support.kafka_harness import PARTITIONS, TIMEOUT_S, KafkaHarness, append
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=15)

EVENTS = 600
TRIGGER = "events_are_never_changed"


@pytest.fixture
def published(kafka_harness: KafkaHarness) -> KafkaHarness:
    """Fill a log and publish it."""
    fill_log(kafka_harness.urls.app, EVENTS)
    kafka_harness.relay()
    return kafka_harness


def compared(kafka_harness: KafkaHarness) -> ReconcileReport:
    """Return the report of the reconciliation."""
    return reconcile(kafka_harness.urls.projector, kafka_harness.broker)


@contextmanager
def relaying(kafka_harness: KafkaHarness) -> Iterator[Relay]:
    """Run a relay in a thread while the block lasts."""
    relay = Relay(kafka_harness.urls.projector, kafka_harness.broker, partitions=PARTITIONS)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        yield relay
    finally:
        relay.stop()
        thread.join()


def published_position(database: Connection, kafka_harness: KafkaHarness) -> int:
    """Return the position that the relay recorded."""
    topic = load_topic(database, kafka_harness.topic)
    return topic.position if topic else 0


def test_event_is_published_once_in_order_in_partition_of_its_account(
    published: KafkaHarness,
) -> None:
    positions = published.positions()
    assert all(each == sorted(each) for each in positions)
    assert sorted(itertools.chain(*positions)) == list(range(1, EVENTS + 1))
    accounts: dict[bytes, set[int]] = {}
    for message in published.messages():
        if message.key:
            accounts.setdefault(message.key, set()).add(message.partition)
            assert message.partition == partition_of(message.key.decode(), PARTITIONS)
    assert all(len(partitions) == 1 for partitions in accounts.values())
    assert {partition for each in accounts.values() for partition in each} == {0, 1, 2, 3}


def test_resumed_relay_publishes_nothing_twice(published: KafkaHarness, workspace: UUID) -> None:
    assert published.relay().published == 0
    with psycopg.connect(published.urls.app) as connection:
        append(connection, workspace)
    assert published.relay().published == 1
    assert compared(published).is_equal
    assert compared(published).counts == {}


def test_relay_after_kill_leaves_no_event_out(
    kafka_harness: KafkaHarness, database: Connection
) -> None:
    fill_log(kafka_harness.urls.app, 30_000)
    with kafka_harness.command("relay") as process:
        wait_until(
            lambda: published_position(database, kafka_harness) > 0,
            "the relay has published something",
            timeout_s=TIMEOUT_S,
        )
        process.kill()
    assert published_position(database, kafka_harness) < 30_000, "the relay was killed too late"
    kafka_harness.relay()
    report = compared(kafka_harness)
    assert report.is_equal, report
    assert report.events == 30_000
    assert report.messages == 30_000 + report.counts["doubled"]


def test_uncommitted_event_is_neither_published_nor_skipped(
    kafka_harness: KafkaHarness, workspace: UUID, urls: Urls
) -> None:
    with psycopg.connect(urls.app) as late, psycopg.connect(urls.app) as early:
        first = append(late, workspace, "late")
        second = append(early, workspace, "early")
        early.commit()
        kafka_harness.relay()
        assert sorted(itertools.chain(*kafka_harness.positions())) == []
        late.rollback()
        third = append(late, workspace, "later")
        kafka_harness.relay()
        assert sorted(itertools.chain(*kafka_harness.positions())) == [second]
        late.commit()
    kafka_harness.relay()
    assert (first, sorted(itertools.chain(*kafka_harness.positions()))) == (1, [second, third])


def test_second_relay_waits_and_takes_over(
    kafka_harness: KafkaHarness, database: Connection, workspace: UUID, urls: Urls
) -> None:
    def epoch() -> int:
        topic = load_topic(database, kafka_harness.topic)
        return topic.epoch if topic else 0

    with relaying(kafka_harness) as first:
        wait_until(lambda: epoch() == 1, "the first relay publishes", timeout_s=TIMEOUT_S)
        with relaying(kafka_harness):
            with psycopg.connect(urls.app) as connection:
                position = append(connection, workspace)
            wait_until(
                lambda: published_position(database, kafka_harness) == position,
                "everything is published",
                timeout_s=TIMEOUT_S,
            )
            assert epoch() == 1
            first.stop()
            wait_until(lambda: epoch() == 2, "the second relay has taken over", timeout_s=TIMEOUT_S)
    assert list(itertools.chain(*kafka_harness.positions())) == [position]


def test_last_mark_of_every_partition_is_the_published_position(published: KafkaHarness) -> None:
    last: dict[int, int] = {}
    for message in published.messages():
        head = read_head(message.headers)
        if head.is_mark:
            last[message.partition] = head.position
    assert last == dict.fromkeys(range(PARTITIONS), EVENTS)


def test_deleted_or_foreign_topic_is_refused_until_recreated(
    published: KafkaHarness,
) -> None:
    with published.broker.admin() as admin:
        admin.delete_topics([published.topic])
    with pytest.raises(TopicRefused, match="is gone, though events up to position 600"):
        published.relay()
    with published.broker.admin() as admin:
        create_topic(admin, published.topic, PARTITIONS)
    with pytest.raises(TopicRefused, match="was deleted and created again by somebody else"):
        published.relay()
    published.relay(recreate=True)
    assert compared(published).is_equal


def test_topic_of_another_log_is_refused(published: KafkaHarness, database: Connection) -> None:
    database.execute("UPDATE log_identity SET id = gen_random_uuid()")
    with pytest.raises(TopicRefused, match="belongs to another log"):
        published.relay()
    database.execute("DELETE FROM kafka_topics")
    with pytest.raises(TopicRefused, match="holds messages that are unknown to this database"):
        published.relay()


def test_topic_ahead_of_log_or_with_other_content_is_refused(
    published: KafkaHarness, database: Connection
) -> None:
    database.execute(f"ALTER TABLE events DISABLE TRIGGER {TRIGGER}")
    database.execute(f"UPDATE events SET data = '{{}}' WHERE position = {EVENTS}")
    with pytest.raises(TopicRefused, match=f"differ at position {EVENTS}"):
        published.relay()
    database.execute(f"DELETE FROM events WHERE position > {EVENTS - 100}")
    with pytest.raises(TopicRefused, match="ahead of the log"):
        published.relay()


def test_relay_command_prints_refusal_in_one_sentence(
    published: KafkaHarness, database: Connection
) -> None:
    database.execute("UPDATE kafka_topics SET topic_id = gen_random_uuid()")
    with published.command("relay") as process:
        code, output = process.ended()
    assert code == 1
    assert output.splitlines()[-1].startswith("annals: Topic annals.")


def test_reconciliation_reports_missing_doubled_and_altered_events(
    published: KafkaHarness, database: Connection
) -> None:
    messages = {read_head(each.headers).position: each for each in published.messages() if each.key}
    missing = min(position for position, each in messages.items() if each.partition == 0)
    twice = messages[200]
    producer = published.broker.producer()
    producer.send(published.topic, key=twice.key, value=twice.value, headers=twice.headers,
                  partition=twice.partition)  # fmt: skip
    strange = [("topic", b"x"), ("position", b"7"), ("logId", b"x"), ("relay", b"1.1")]
    producer.send(published.topic, value=b"{}", headers=strange, partition=1)
    producer.close()
    with published.broker.admin() as admin:
        first = published.broker.partitions([0])[0]
        admin.delete_records({first: messages[missing].offset + 1})
    database.execute(f"ALTER TABLE events DISABLE TRIGGER {TRIGGER}")
    database.execute("""UPDATE events SET data = '{"fields": {}}' WHERE position = 300""")
    database.execute("DELETE FROM events WHERE position = 400")
    report = compared(published)
    assert (report.missing, report.doubled, report.altered) == ([missing], [200], [300])
    assert (report.unknown, len(report.foreign), report.misplaced) == ([400], 1, [])
    with published.command("reconcile") as process:
        code, output = process.ended()
    assert code == 1
    assert f"Missing from the topic: {missing}." in output


def test_reconciliation_tolerates_doubled_messages(
    published: KafkaHarness, database: Connection
) -> None:
    database.execute("UPDATE kafka_topics SET position = 100, epoch = epoch + 1")
    published.relay()
    with published.command("reconcile") as process:
        code, output = process.ended()
    assert code == 0, output
    assert "Doubled, which readers tolerate: 101, " in output
    assert compared(published).counts == {"doubled": 500}
