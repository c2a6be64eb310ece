"""Followers read each event once and in order, even if writers stall or are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest

from eventlog.connections import Connection, follow_connection
from eventlog.reading import Page, read_after, readable_position
from tests.support.databases import Urls
from tests.support.waiting import wait_until

WRITERS = 12
TRANSACTIONS_EACH = 25
PROCESSES = 4
FOLLOWERS = 3
POLL_S = 0.002
TEST_LIMIT_S = 60.0
PAGE = 50

APPEND_ONE = """
INSERT INTO events (workspace_id, stream_id, stream_version, topic, data, metadata, occurred_at)
SELECT gen_random_uuid(), gen_random_uuid(), 1, 'account.created', '{}', '{}', now()
  FROM generate_series(1, %s)
"""
COPY_ONE = """
COPY events (workspace_id, stream_id, stream_version, topic, data, metadata, occurred_at) FROM STDIN
"""

REPORT_LIMITS = """
DO $$ BEGIN
    INSERT INTO events (workspace_id, stream_id, stream_version, topic, data, metadata, occurred_at)
    VALUES (gen_random_uuid(), gen_random_uuid(), 1, 'account.created', '{}', '{}', now());
    RAISE EXCEPTION '% %', current_setting('idle_in_transaction_session_timeout'),
                           current_setting('transaction_timeout');
END $$
"""

# A process that takes positions, prints "taken", and then waits until it is killed.
STALLING_PROCESS = """
import signal, sys, psycopg
connection = psycopg.connect(sys.argv[1])
connection.execute(sys.argv[2], (3,))
print("taken", flush=True)
signal.pause()
"""


def follow(connection: Connection, position: int, *, limit: int) -> Iterator[Page]:
    """Read pages from `position` up to the readable position."""
    while True:
        page = read_after(connection, position, limit)
        if page.upto > position:
            yield page
        if not page.more:
            return
        position = page.upto


@contextmanager
def stalled_writer(urls: Urls, *settings: str, insert: str = APPEND_ONE) -> Iterator[Connection]:
    """Provide a client that has taken a position and does not commit."""
    with psycopg.connect(urls.superuser) as connection:
        for setting in settings:
            connection.execute(f"SET {setting}".encode())
        connection.execute(insert.encode(), (1,))
        try:
            yield connection
        finally:
            connection.close()


def append(urls: Urls, events: int = 1) -> int:
    """Append and commit events; return the position of the last."""
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        connection.execute(APPEND_ONE, (events,))
        row = connection.execute("SELECT max(position) FROM events").fetchone()
        assert row is not None
        return int(row[0])


class Follower(threading.Thread):
    """Polls the log and keeps the positions in the order of reading."""

    def __init__(self, url: str, done: threading.Event) -> None:
        super().__init__()
        self.url = url
        self.done = done
        self.seen: list[int] = []

    def run(self) -> None:
        with follow_connection(self.url, application_name="test-follower") as connection:
            position = 0
            while True:
                last_round = self.done.is_set()
                position = self.poll(connection, position)
                if last_round:
                    return
                self.done.wait(POLL_S)

    def poll(self, connection: Connection, position: int) -> int:
        for page in follow(connection, position, limit=PAGE):
            self.seen += [event.position for event in page.events]
            position = page.upto
        return position


class NaiveFollower(Follower):
    """The control: reads all events above the last position that it has seen."""

    def poll(self, connection: Connection, position: int) -> int:
        rows = connection.execute(
            "SELECT position FROM events WHERE position > %s ORDER BY position LIMIT %s",
            (position, PAGE),
        ).fetchall()
        self.seen += [row[0] for row in rows]
        return self.seen[-1] if self.seen else 0


class Writer(threading.Thread):
    """Takes positions in explicit transactions and ends them at random."""

    def __init__(self, urls: Urls, seed: int) -> None:
        super().__init__()
        self.urls = urls
        self.random = random.Random(seed)

    def run(self) -> None:
        connection = psycopg.connect(self.urls.superuser)
        for _ in range(TRANSACTIONS_EACH):
            try:
                self.transaction(connection)
            except psycopg.OperationalError:  # the connection was terminated
                connection = psycopg.connect(self.urls.superuser)
        connection.close()

    def transaction(self, connection: Connection) -> None:
        for _ in range(self.random.randint(1, 3)):
            self.take_positions(connection)
            time.sleep(self.random.random() * 0.008)  # so that transactions overlap
        match self.random.choices(["commit", "rollback", "terminated"], [75, 20, 5])[0]:
            case "commit":
                connection.commit()
            case "rollback":
                connection.rollback()
            case "terminated":
                with psycopg.connect(self.urls.superuser, autocommit=True) as other:
                    other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
                connection.commit()

    def take_positions(self, connection: Connection) -> None:
        match self.random.choice(["insert", "copy", "savepoint", "rolled back savepoint"]):
            case "insert":
                connection.execute(APPEND_ONE, (self.random.randint(1, 4),))
            case "copy":
                copy_one(connection)
            case "savepoint":
                with connection.transaction():
                    connection.execute(APPEND_ONE, (1,))
            case "rolled back savepoint":
                with connection.transaction(force_rollback=True):
                    connection.execute(APPEND_ONE, (1,))


def copy_one(connection: Connection) -> None:
    """Append one event by COPY."""
    with connection.cursor().copy(COPY_ONE) as copy:
        copy.write_row((uuid4(), uuid4(), 1, "account.created", "{}", "{}", "2026-01-31 12:00Z"))


def kill_processes_while_they_write(urls: Urls) -> None:
    """Kill writer processes with SIGKILL while they hold positions."""
    for _ in range(PROCESSES):
        process = subprocess.Popen(
            [sys.executable, "-c", STALLING_PROCESS, urls.superuser, APPEND_ONE],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"taken\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("seed", [int(os.environ.get("ANNALS_TEST_SEED", "0")) or 20261])
def test_followers_skip_nothing_despite_reordered_commits_rollbacks_and_kills(
    urls: Urls, seed: int
) -> None:
    sys.stdout.write(f"seed {seed}; ANNALS_TEST_SEED sets another\n")
    done = threading.Event()
    followers = [Follower(urls.projector, done) for _ in range(FOLLOWERS)]
    naive = NaiveFollower(urls.projector, done)
    writers = [Writer(urls, seed + number) for number in range(WRITERS)]
    for thread in [*followers, naive, *writers]:
        thread.start()
    try:
        kill_processes_while_they_write(urls)
    finally:
        for thread in writers:
            thread.join(TEST_LIMIT_S)
        done.set()
        for thread in [*followers, naive]:
            thread.join(TEST_LIMIT_S)

    with psycopg.connect(urls.superuser) as connection:
        rows = connection.execute("SELECT position FROM events ORDER BY position").fetchall()
        last = readable_position(connection)
    recorded = [row[0] for row in rows]
    assert last > len(recorded), "no transaction was rolled back: the test proves nothing"
    for follower in followers:
        assert follower.seen == recorded
    skipped = len(set(recorded) - set(naive.seen))
    sys.stdout.write(f"{len(recorded)} events, of which a naive follower skipped {skipped}\n")
    assert skipped > 0, "the naive follower skipped nothing: the test proves nothing"


@pytest.mark.parametrize("way", ["insert", "copy", "merge", "insert as replica"])
def test_every_way_to_write_announces_its_positions(urls: Urls, way: str) -> None:
    with (
        psycopg.connect(urls.superuser) as writer,
        follow_connection(urls.projector, application_name="test") as follower,
    ):
        before = append(urls)
        match way:
            case "insert":
                writer.execute(APPEND_ONE, (1,))
            case "copy":
                copy_one(writer)
            case "merge":
                writer.execute(
                    "MERGE INTO events USING (SELECT 1) AS one ON false WHEN NOT MATCHED THEN"
                    " INSERT (workspace_id, stream_id, stream_version, topic, data, metadata,"
                    " occurred_at) VALUES (gen_random_uuid(), gen_random_uuid(), 1, 't', '{}',"
                    " '{}', now())"
                )
            case "insert as replica":
                writer.execute("SET session_replication_role = replica")
                writer.execute(APPEND_ONE, (1,))
        last = append(urls)
        assert readable_position(follower) == before
        writer.rollback()
        assert readable_position(follower) == last


def test_stalled_writer_holds_followers_at_its_first_position(urls: Urls) -> None:
    before = append(urls, 5)
    with (
        follow_connection(urls.projector, application_name="test") as follower,
        stalled_writer(urls),
    ):
        append(urls, 5)
        pages = list(follow(follower, 0, limit=3))
        assert [event.position for page in pages for event in page.events] == [1, 2, 3, 4, 5]
        assert pages[-1].upto == before


@pytest.mark.parametrize(
    "setting",
    [
        "idle_in_transaction_session_timeout = 0",
        "idle_in_transaction_session_timeout = '1h'",
        "transaction_timeout = '1h'",
    ],
)
def test_idle_writer_is_disconnected_at_the_limit_despite_its_settings(
    urls: Urls, setting: str
) -> None:
    append(urls)
    with (
        follow_connection(urls.projector, application_name="test") as follower,
        stalled_writer(urls, setting, "annals.writer_limit_ms = 300") as writer,
    ):
        last = append(urls)
        assert readable_position(follower) < last
        waited = wait_until(
            lambda: readable_position(follower) == last,
            "the follower can read to the end",
            timeout_s=3,
        )
        assert waited < 2
        with pytest.raises(psycopg.Error, match="timeout"):
            writer.execute("SELECT 1")


def test_active_writer_is_disconnected_at_the_limit(urls: Urls) -> None:
    with (
        follow_connection(urls.projector, application_name="test") as follower,
        stalled_writer(
            urls, "transaction_timeout = '1h'", "annals.writer_limit_ms = 300"
        ) as writer,
    ):
        last = append(urls)
        began = time.monotonic()
        with pytest.raises(psycopg.Error, match="transaction timeout"):
            writer.execute("SELECT pg_sleep(100)")
        assert time.monotonic() - began < 50
        assert readable_position(follower) == last


@pytest.mark.parametrize(
    ("wanted", "idle", "total"),
    [
        ([], "5s", "15s"),
        (["annals.writer_limit_ms = 3600000"], "5s", "15s"),
        (["annals.writer_limit_ms = 700"], "700ms", "700ms"),
        (["idle_in_transaction_session_timeout = '2s'", "transaction_timeout = '3s'"], "2s", "3s"),
    ],
)
def test_client_can_shorten_but_not_lengthen_the_limits(
    urls: Urls, wanted: list[str], idle: str, total: str
) -> None:
    with psycopg.connect(urls.superuser) as writer:
        for setting in wanted:
            writer.execute(f"SET {setting}".encode())
        with pytest.raises(psycopg.Error) as limits:
            writer.execute(REPORT_LIMITS)
    assert limits.value.diag.message_primary == f"{idle} {total}"


def test_limits_end_with_the_transaction(urls: Urls) -> None:
    with psycopg.connect(urls.superuser, autocommit=True) as writer:
        writer.execute(APPEND_ONE, (1,))
        for setting in ("idle_in_transaction_session_timeout", "transaction_timeout"):
            assert writer.execute(f"SHOW {setting}".encode()).fetchone() == ("0",)


@pytest.mark.parametrize("where", ["the same database", "another database"])
def test_long_transaction_on_other_tables_does_not_hold_followers(urls: Urls, where: str) -> None:
    url = urls.superuser
    if where == "another database":
        url = url.rsplit("/", 1)[0] + "/postgres"
    with (
        psycopg.connect(url) as unrelated,
        follow_connection(urls.projector, application_name="test") as follower,
    ):
        row = unrelated.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        assert row is not None
        last = append(urls)
        assert readable_position(follower) == last
        # A follower limited to rows below the oldest writing transaction would not see the event.
        horizon = follower.execute(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
        ).fetchone()
        assert horizon is not None
        assert horizon[0] <= row[0]
        below = follower.execute(
            "SELECT count(*) FROM events WHERE xmin::text::bigint < %s AND position = %s",
            (horizon[0], last),
        ).fetchone()
        assert below == (0,)


def test_transaction_with_many_statements_announces_once(urls: Urls) -> None:
    with psycopg.connect(urls.superuser) as writer:
        for _ in range(50):
            writer.execute(APPEND_ONE, (1,))
        held = writer.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        ).fetchone()
    assert held == (1,)


@pytest.mark.parametrize("announced", ["-1", "0", "1000000"])
def test_forged_announcement_can_only_hold_followers_back(urls: Urls, announced: str) -> None:
    before = append(urls, 5)
    with (
        psycopg.connect(urls.superuser) as writer,
        follow_connection(urls.projector, application_name="test") as follower,
    ):
        writer.execute(f"SET annals.announced = '{announced}'".encode())
        writer.execute(APPEND_ONE, (1,))
        append(urls)
        assert readable_position(follower) <= before


def test_sessions_cache_no_positions(database: Connection) -> None:
    """A session with cached positions would announce a higher position than the next it takes."""
    row = database.execute(
        "SELECT seqcache FROM pg_sequence WHERE seqrelid = 'events_position_seq'::regclass"
    ).fetchone()
    assert row == (1,)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_following_in_transaction_with_one_snapshot_is_refused(urls: Urls, level: str) -> None:
    with psycopg.connect(urls.projector) as connection:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
        with pytest.raises(psycopg.errors.ActiveSqlTransaction, match="read committed"):
            readable_position(connection)


def test_readable_position_of_follower_at_end_is_its_own(urls: Urls) -> None:
    last = append(urls, 3)
    with follow_connection(urls.projector, application_name="test") as follower:
        assert readable_position(follower, known=last) == last
        assert readable_position(follower, known=last - 1) == last
        with stalled_writer(urls):
            assert readable_position(follower, known=last) == last


def test_empty_log_can_be_followed(urls: Urls) -> None:
    with follow_connection(urls.projector, application_name="test") as follower:
        assert readable_position(follower) == 0
        assert list(follow(follower, 0, limit=10)) == []
