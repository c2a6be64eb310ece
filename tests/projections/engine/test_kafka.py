"""Projectors that share a topic apply each event once, despite crashes and doubled messages."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID

import psycopg
import pytest

from benchmarks.generated import fill_log
from commands.entities import EntityCommands
from domain.account import Account
from domain.contact import Contact
from domain.task import Task
from eventlog.connections import Connection
from eventlog.kafka import relay
from eventlog.kafka.message import Headers, encode_mark, headers, read_head
from eventlog.reading import readable_position
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.kafka.buffers import PartitionBuffer
from projections.engine.kafka.consumer import GroupEngine
from projections.engine.ledger.coverage import gaps
from projections.engine.live.partitions import load_partition_positions
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.retry import retry
from projections.engine.rebuild.runner import Rebuild
from projections.engine.registry import PROJECTIONS, versions
from readmodels import table_definitions
from tests.support.databases import Urls
from tests.support.failing_projection import companies, failing_for
from tests.support.kafka_harness import TIMEOUT_S, KafkaHarness, append, running_groups
from tests.support.oracle import assert_tables_match_log
from tests.support.undo_client import UndoClient
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=55)

EVENTS = 4_000
HALF = 2_000


@pytest.fixture
def published(kafka_harness: KafkaHarness) -> KafkaHarness:
    """Fill a log and publish it."""
    fill_log(kafka_harness.urls.app, EVENTS)
    kafka_harness.relay()
    return kafka_harness


def consume(kafka_harness: KafkaHarness, position: int = EVENTS) -> None:
    """Run one consumer until all projections have reached the position."""
    with running_groups(kafka_harness.group()):
        kafka_harness.wait_until_consumed(position)


class SomePartitionsOnly(GroupEngine):
    """A consumer that reads only some of its partitions."""

    partitions: tuple[int, ...] = (0, 1)

    def _begin(self, connection: Connection, consumer: Any) -> None:
        super()._begin(connection, consumer)
        for number in self._buffers.keys() - set(self.partitions):
            del self._buffers[number]


def consume_unevenly(
    kafka_harness: KafkaHarness,
    database: Connection,
    position: int = EVENTS,
    partitions: tuple[int, ...] = (0, 1),
) -> None:
    """Consume some of the partitions to the end, and the others not at all."""

    def is_uneven() -> bool:
        positions = [load_partition_positions(database, name).positions for name in PROJECTIONS]
        return all(each and max(each) >= position > min(each) for each in positions)

    engine = SomePartitionsOnly(
        kafka_harness.urls.projector, PROJECTIONS.values(), kafka_harness.broker
    )
    engine.partitions = partitions
    with running_groups(engine):
        wait_until(is_uneven, "the partitions are uneven", timeout_s=TIMEOUT_S)


def rows(database: Connection) -> dict[str, list[Any]]:
    """Return all rows of all read tables."""
    tables = database.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'read' ORDER BY 1"
    ).fetchall()
    return {
        table: database.execute(
            f"SELECT t::text FROM read.{table} t ORDER BY 1".encode()
        ).fetchall()
        for (table,) in tables
    }


def rows_by_log_engine(database: Connection, urls: Urls) -> dict[str, list[Any]]:
    """Empty the read tables, project them from the log, and return their rows."""
    for table in rows(database):
        database.execute(f"TRUNCATE read.{table}".encode())
    database.execute("TRUNCATE projection_coverage, projection_offsets, projection_parked")
    database.execute("UPDATE projections SET position = 0")
    ProjectionEngine(urls.projector, PROJECTIONS.values()).catch_up()
    return rows(database)


def assert_each_event_once(database: Connection) -> None:
    """Assert that the coverage ledger agrees with the log, and the rows with the oracle."""
    upto = readable_position(database)
    assert [gaps(database, name, upto=upto) for name in PROJECTIONS] == [[] for _ in PROJECTIONS]
    assert_tables_match_log(database)


def test_group_and_log_engine_make_the_same_rows(
    published: KafkaHarness, database: Connection
) -> None:
    consume(published)
    assert_each_event_once(database)
    by_group = rows(database)
    assert by_group == rows_by_log_engine(database, published.urls)


def test_killed_member_and_broker_lose_and_double_no_event(
    kafka_harness: KafkaHarness, database: Connection
) -> None:
    total = 20_000

    def least() -> int:
        row = database.execute("SELECT coalesce(min(position), 0) FROM projections").fetchone()
        return row[0] if row else 0

    def members_with_offsets() -> int:
        found = database.execute(
            """SELECT count(DISTINCT pid) FROM pg_stat_activity
                WHERE application_name = 'annals-apply' AND datname = current_database()""",
        ).fetchone()
        return found[0] if found else 0

    fill_log(kafka_harness.urls.app, total // 2)
    source = ("project", "--source", "kafka")
    with (
        kafka_harness.command("relay"),
        kafka_harness.command(*source) as first,
        kafka_harness.command(*source),
    ):
        wait_until(
            lambda: members_with_offsets() == 2 and least() > 0,
            "both members have consumed something",
            timeout_s=TIMEOUT_S,
        )
        writer = threading.Thread(target=fill_log, args=(kafka_harness.urls.app, total // 2),
                                  kwargs={"seed": 2})  # fmt: skip
        writer.start()
        first.kill()
        kafka_harness.kafka.kill()
        kafka_harness.kafka.start()
        with kafka_harness.command(*source):
            writer.join()
            kafka_harness.wait_until_consumed(total)
    assert_each_event_once(database)
    by_group = rows(database)
    assert by_group == rows_by_log_engine(database, kafka_harness.urls)


def test_two_groups_on_the_same_partitions_apply_each_event_once(
    published: KafkaHarness, database: Connection
) -> None:
    with running_groups(published.group(), published.group(group="of-zombies")):
        published.wait_until_consumed(EVENTS)
    assert_each_event_once(database)


def test_doubled_late_and_unordered_messages_are_ignored(
    published: KafkaHarness, database: Connection
) -> None:
    messages = list(published.messages())
    topic = published.topic
    database.execute("UPDATE kafka_topics SET position = 1000, epoch = epoch + 1")
    producer = published.broker.producer()

    def send(message: Any, head: Headers, value: bytes) -> None:
        producer.send(
            topic, key=message.key, value=value, headers=head, partition=message.partition
        )

    for message in reversed(messages[::3]):  # by the same relay, before its successor starts
        if message.key:
            send(message, message.headers, message.value)
    producer.flush()
    published.relay()  # doubles everything after 1,000
    for message in messages:  # by the first relay, which does not know that it was replaced
        head = read_head(message.headers)
        if head.is_mark:
            late = headers(head.topic, EVENTS * 2, head.origin)
            send(message, late, encode_mark(EVENTS * 2))
        else:
            send(message, message.headers, message.value.replace(b"Acme", b"Evil"))
    producer.close()
    fill_log(published.urls.app, 100, seed=3)
    published.relay()
    consume(published, EVENTS + 100)
    assert_each_event_once(database)


def test_checkpoint_is_position_that_all_partitions_have_reached(
    published: KafkaHarness, database: Connection
) -> None:
    consume_unevenly(published, database)
    positions = database.execute("SELECT DISTINCT position FROM projections").fetchall()
    assert positions == [(0,)]


def test_log_engine_waits_for_group_and_resumes_at_each_partition_position(
    published: KafkaHarness, database: Connection
) -> None:
    urls = published.urls
    consume_unevenly(published, database)
    engine = ProjectionEngine(urls.projector, PROJECTIONS.values())
    with running_groups(published.group()):
        published.wait_until_consumed(1)
        engine.catch_up()
        assert database.execute("SELECT count(*) FROM projection_offsets").fetchone() != (0,)
        published.wait_until_consumed(EVENTS)
    fill_log(urls.app, HALF, seed=2)
    published.relay()
    consume_unevenly(published, database, EVENTS + HALF)
    engine.catch_up()
    assert database.execute("SELECT count(*) FROM projection_offsets").fetchone() == (0,)
    assert_each_event_once(database)


def test_group_takes_over_from_log_engine_without_reading_all_messages(
    published: KafkaHarness, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "INDEX_EVENTS", HALF)
    fill_log(published.urls.app, HALF, seed=2)
    published.relay()
    ProjectionEngine(published.urls.projector, PROJECTIONS.values()).catch_up()
    fill_log(published.urls.app, HALF, seed=3)
    published.relay()
    received: list[int] = []
    add = PartitionBuffer.add

    def record(buffer: PartitionBuffer, messages: list[Any]) -> None:
        received.extend(read_head(each.headers).position for each in messages)
        add(buffer, messages)

    monkeypatch.setattr(PartitionBuffer, "add", record)
    consume(published, EVENTS + 2 * HALF)
    assert min(received) == EVENTS + HALF, "the group did not start at the nearest mark"
    assert_each_event_once(database)


def test_recreated_topic_with_other_partition_count_is_consumed(
    published: KafkaHarness, database: Connection
) -> None:
    consume_unevenly(published, database)
    with running_groups(published.group()):
        published.wait_until_consumed(1)
        published.relay(recreate=True, partitions=3)
        fill_log(published.urls.app, HALF, seed=2)
        published.relay()
        published.wait_until_consumed(EVENTS + HALF)
    assert len(load_partition_positions(database, "accounts").positions) == 3
    assert_each_event_once(database)


def test_rebuild_during_group_consumption_is_swapped_in(
    published: KafkaHarness, database: Connection
) -> None:
    consume_unevenly(published, database)
    definitions = {name: table_definitions()[name] for name in ("accounts", "notes")}
    with running_groups(published.group()):
        published.wait_until_consumed(1)
        Rebuild(published.urls.projector, definitions, workers=1).run()
        fill_log(published.urls.app, HALF, seed=2)
        published.relay()
        published.wait_until_consumed(EVENTS + HALF)
    assert_each_event_once(database)


def test_swapped_projection_resumes_at_each_partition_position(
    published: KafkaHarness, database: Connection
) -> None:
    consume_unevenly(published, database)
    # No consumer runs, so the live rows do not change and only the swap itself is tested.
    database.execute("UPDATE projections SET version = 'older' WHERE name = 'accounts'")
    definition = {"accounts": table_definitions()["accounts"]}
    Rebuild(published.urls.projector, definition, workers=1).run()
    consume(published)
    assert_each_event_once(database)


def test_failing_projector_parks_only_that_entity_and_retry_restores_it(
    accounts: list[Account],
    kafka_harness: KafkaHarness,
    database: Connection,
    commands: EntityCommands,
    scope: Scope,
) -> None:
    kafka_harness.relay()
    broken = {**PROJECTIONS, "accounts": failing_for(PROJECTIONS["accounts"], "Bluth")}
    with running_groups(kafka_harness.group(broken.values())):
        kafka_harness.wait_until_consumed(6)
        commands.create(scope, Contact, {"name": "late"}, account_id=accounts[1].id)
        kafka_harness.relay()
        kafka_harness.wait_until_consumed(7)
    assert companies(database) == [("Acme", 1), ("Cyberdyne", 1)]
    found = database.execute("SELECT entity_id, position, events FROM projection_parked")
    assert found.fetchall() == [(accounts[1].id, 3, 3)]
    assert gaps(database, "accounts", upto=7) == []
    with running_groups(kafka_harness.group()):
        assert [
            each.error for each in retry(kafka_harness.urls.projector, PROJECTIONS["accounts"])
        ] == [None]
        commands.create(scope, Contact, {"name": "later"}, account_id=accounts[1].id)
        kafka_harness.relay()
        kafka_harness.wait_until_consumed(8)
    assert companies(database) == [("Acme", 1), ("Bluth", 3), ("Cyberdyne", 1)]
    assert_each_event_once(database)


def test_row_refused_by_database_parks_only_its_entity(
    accounts: list[Account], kafka_harness: KafkaHarness, database: Connection
) -> None:
    database.execute("ALTER TABLE read.accounts ADD CHECK (company <> 'Bluth')")
    kafka_harness.relay()
    consume(kafka_harness, 6)
    assert companies(database) == [("Acme", 1), ("Cyberdyne", 1)]
    found = database.execute("SELECT projection, entity_id, events FROM projection_parked")
    assert found.fetchall() == [("accounts", accounts[1].id, 2)]


@pytest.mark.parametrize("first", [(0,), (1, 2), (3,)])
def test_entities_that_change_account_are_projected_in_any_partition_order(
    first: tuple[int, ...],
    kafka_harness: KafkaHarness,
    database: Connection,
    commands: EntityCommands,
    log: EventLog,
    scope: Scope,
) -> None:
    move_entities(UndoClient(log, commands, scope))
    end = database.execute("SELECT max(position) FROM events").fetchone()
    assert end is not None
    kafka_harness.relay()
    consume_unevenly(kafka_harness, database, end[0], first)
    consume(kafka_harness, end[0])
    assert_each_event_once(database)
    by_group = rows(database)
    assert by_group == rows_by_log_engine(database, kafka_harness.urls)


def move_entities(undo_client: UndoClient) -> None:
    """Move contacts and tasks between accounts by merges and undo, and delete some of them."""
    hubs = [undo_client.make(Account, company=f"Hub {n}", type="customer") for n in range(3)]
    for number in range(9):
        account = undo_client.make(Account, company=f"Acme {number}", type="customer")
        contact = undo_client.make(Contact, account, name=f"Ada {number}")
        task = undo_client.make(Task, account, title="Call")
        undo_client.set(Contact, contact, title="CEO")
        _, command = undo_client.merge(Account, hubs[number % 3], account)
        undo_client.set(Contact, contact, title="CFO")
        if number % 4 == 0:
            undo_client.delete(Task, task)
        elif number % 2 == 0:
            undo_client.undo_command(undo_client.undo_command(undo_client.undo_command(command)))
            undo_client.set(Contact, contact, title="CTO")
        if number % 4 == 3:
            undo_client.delete(Contact, contact)
    for other in hubs[1:]:
        _, command = undo_client.merge(Account, hubs[0], other)
        undone = undo_client.undo_command(command)
    undo_client.undo_command(undone)


def test_unused_positions_do_not_hold_back_the_checkpoint(
    kafka_harness: KafkaHarness, workspace: UUID, database: Connection
) -> None:
    with psycopg.connect(kafka_harness.urls.app) as connection:
        position = append(connection, workspace)
        connection.commit()
        rolled_back = append(connection, workspace)
        connection.rollback()
    kafka_harness.relay()
    assert (position, rolled_back) == (1, 2)
    consume(kafka_harness, rolled_back)
    assert_each_event_once(database)


def test_damaged_projection_stops_only_itself_in_a_group(
    published: KafkaHarness, database: Connection
) -> None:
    others = [name for name in PROJECTIONS if name != "accounts"]
    behind = "SELECT count(*) FROM projections WHERE name = ANY(%s) AND position < %s"
    database.execute("DROP TABLE read.accounts CASCADE")
    with running_groups(published.group(), published.group()):
        wait_until(
            lambda: database.execute(behind, (others, EVENTS)).fetchone() == (0,),
            "the other projections are consumed",
            timeout_s=TIMEOUT_S,
        )
        problem = database.execute("SELECT name FROM projections WHERE problem <> ''").fetchall()
        assert problem == [("accounts",)]
        definition = {"accounts": table_definitions()["accounts"]}
        Rebuild(published.urls.projector, definition, replace_because="a test", workers=1).run()
        published.wait_until_consumed(EVENTS)
    assert_each_event_once(database)


def test_group_of_other_code_does_not_apply_events(
    published: KafkaHarness, database: Connection
) -> None:
    database.execute("UPDATE projections SET version = 'other' WHERE name = 'accounts'")
    others = [name for name in PROJECTIONS if name != "accounts"]
    behind = "SELECT count(*) FROM projections WHERE name = ANY(%s) AND position < %s"
    engine = GroupEngine(
        published.urls.projector,
        PROJECTIONS.values(),
        published.broker,
        versions=versions(table_definitions()),
    )
    with running_groups(engine):
        wait_until(
            lambda: database.execute(behind, (others, EVENTS)).fetchone() == (0,),
            "the other projections are consumed",
            timeout_s=TIMEOUT_S,
        )
        assert companies(database) == []
        definition = {"accounts": table_definitions()["accounts"]}
        Rebuild(published.urls.projector, definition, workers=1).run()
        published.wait_until_consumed(EVENTS)
    assert_each_event_once(database)
