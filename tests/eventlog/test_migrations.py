"""Migrations from every released version, during reads and writes and without blocking them."""

from __future__ import annotations

import itertools
import re
import shutil
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from benchmarks.generated import generate
from eventlog.connections import follow_connection
from eventlog.digest import DIGEST_SQL
from eventlog.migrations import (
    SQL_FOLDER,
    LockWaits,
    Migration,
    MigrationBlocked,
    applied_migrations,
    migrate,
    pending_migrations,
)
from projections.engine.ledger.coverage import verify_all
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.runner import Rebuild
from projections.engine.registry import PROJECTIONS, versions
from readmodels import table_definitions
from runtime.settings import REPOSITORY
from server.postgres.embedded import Cluster, DatabaseUrls, EmbeddedPostgres, prepare_database
from server.postgres.rehearsal import rehearse
from server.postgres.restore import replay
from server.postgres.upgrade import plan_upgrade, upgrade
from tests.support.databases import Urls
from tests.support.postgres_server import reachable_folder
from tests.support.recorded_schemas import EVENTS, SCHEMAS, WORKSPACES, append, dump, restore
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=10)

RECORDED = sorted(SCHEMAS.glob("*.sql.gz"))
HOW_TO = REPOSITORY / "docs" / "how-to" / "migrate.md"
IMPATIENT = LockWaits(lock_wait_ms=100, attempts_max=3, pause_s=0.05)
_numbers = itertools.count(1)


def rebuild_what_other_code_made(urls: DatabaseUrls) -> None:
    """Bring all projections up to date as an operator does after an upgrade."""
    definitions = table_definitions()
    code = versions(definitions)
    engine = ProjectionEngine(urls.projector, PROJECTIONS.values(), versions=code)
    engine.catch_up()
    with psycopg.connect(urls.projector) as connection:
        rows = connection.execute("SELECT name, version FROM projections").fetchall()
    changed = {name: definitions[name] for name, version in rows if version != code[name]}
    Rebuild(urls.projector, changed, workers=1).run()
    engine.catch_up()


@contextmanager
def empty_database(cluster: Cluster) -> Iterator[tuple[str, DatabaseUrls]]:
    """Provide the name and URLs of a database without tables."""
    name = f"migrated_{next(_numbers)}"
    yield name, prepare_database(cluster, name)
    with psycopg.connect(cluster.superuser_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


class Traffic:
    """Runs statements of clients of every released version in threads, until the block ends."""

    def __init__(self, urls: DatabaseUrls) -> None:
        self._urls = urls
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,))
            for work in (self._write, self._write, self._read, self._follow)
        ]
        self._seeds = itertools.count(100)
        self.errors: list[str] = []
        self.positions: list[int] = []
        self.reads = 0
        self.followed: list[int] = []

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        self.wait_for_progress()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_progress(self) -> None:
        """Wait until each thread has done ten more operations."""
        before = self._progress()

        def has_progressed() -> bool:
            assert not self.errors, self.errors
            return all(new >= old + 10 for new, old in zip(self._progress(), before, strict=True))

        wait_until(has_progressed, "every writer and reader has done ten more")

    def _progress(self) -> tuple[int, int, int]:
        return len(self.positions), self.reads, len(self.followed)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (psycopg.Error, AssertionError) as error:
            self.errors.append(repr(error))

    def _write(self) -> None:
        events = generate(next(self._seeds))
        with psycopg.connect(self._urls.app, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '5s'")
            while not self._stop.is_set():
                batch = list(itertools.islice(events, 5))
                self.positions += append(connection, WORKSPACES[0], batch)

    def _read(self) -> None:
        with psycopg.connect(self._urls.app, autocommit=True) as connection:
            connection.execute(
                "SELECT set_config('annals.workspace_id', %s, false)", (str(WORKSPACES[1]),)
            )
            statement = "SELECT count(*) FROM read.accounts"
            expected = connection.execute(statement).fetchone()
            while not self._stop.is_set():
                assert connection.execute(statement).fetchone() == expected
                self.reads += 1

    def _follow(self) -> None:
        at = 0
        with psycopg.connect(self._urls.projector, autocommit=True) as connection:
            while not self._stop.is_set():
                row = connection.execute("SELECT readable_position()").fetchone()
                assert row is not None
                found = connection.execute(
                    "SELECT position FROM events WHERE position > %s AND position <= %s ORDER BY 1",
                    (at, row[0]),
                ).fetchall()
                self.followed += [each[0] for each in found]
                at = max(at, row[0])  # the readable position may decrease a little


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[DatabaseUrls]:
    """Provide a database without tables."""
    with empty_database(cluster) as (_, urls):
        yield urls


def with_another(folder: Path, name: str, text: str) -> Path:
    """Copy the migrations into the folder and add this one."""
    shutil.copytree(SQL_FOLDER, folder, dirs_exist_ok=True)
    (folder / name).write_text(text, "utf-8")
    return folder


def log_until(superuser_url: str, position: int) -> tuple[Any, ...]:
    """Return the number and digest of the events up to a position."""
    statement = f"SELECT count(*), sum({DIGEST_SQL}) FROM events WHERE position <= %s"
    with psycopg.connect(superuser_url) as connection:
        row = connection.execute(statement.encode(), (position,)).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.name)
def test_released_version_is_upgraded_during_reads_and_writes(
    cluster: Cluster, recorded: Path
) -> None:
    with empty_database(cluster) as (name, urls):
        restore(cluster, name, recorded)
        superuser_url = cluster.url("postgres", name)
        before = log_until(superuser_url, EVENTS)
        with Traffic(urls) as traffic:
            upgrade(urls.owner, urls.projector)
            traffic.wait_for_progress()
        assert traffic.errors == []
        assert log_until(superuser_url, EVENTS) == before
        with psycopg.connect(superuser_url) as connection:
            held = [row[0] for row in connection.execute("SELECT position FROM events ORDER BY 1")]
        assert held == [*range(1, EVENTS + 1), *sorted(traffic.positions)]
        assert traffic.followed == held[: len(traffic.followed)]
        rebuild_what_other_code_made(urls)
        with follow_connection(urls.projector, application_name="test") as connection:
            assert verify_all(connection) == []
        assert replay(urls.projector).different == []


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.name)
def test_upgraded_schema_equals_new_schema(cluster: Cluster, recorded: Path) -> None:
    schema = ("--schema-only", "--schema=public")
    with empty_database(cluster) as (old, urls), empty_database(cluster) as (new, fresh):
        restore(cluster, old, recorded)
        migrate(urls.owner)
        migrate(fresh.owner)
        assert dump(cluster, old, *schema) == dump(cluster, new, *schema), (
            f"a migration in {recorded.name} was edited: released migrations never change,"
            " add another file (docs/how-to/migrate.md)"
        )


def test_plan_names_files_and_purposes_and_changes_nothing(empty: DatabaseUrls) -> None:
    plan = plan_upgrade(empty.owner)
    assert [each.file for each in plan.migrations] == sorted(
        path.name for path in SQL_FOLDER.glob("*.sql")
    )
    assert all(each.purpose for each in plan.migrations)
    assert plan.new_projections == list(PROJECTIONS)
    assert applied_migrations(empty.owner) == []
    upgrade(empty.owner, empty.projector)
    plan = plan_upgrade(empty.owner)
    assert (plan.migrations, plan.new_projections) == ([], [])


def test_plan_names_projections_with_changed_code(urls: Urls) -> None:
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        connection.execute("UPDATE projections SET version = 'older' WHERE name = 'notes'")
    assert plan_upgrade(urls.owner).changed_projections == ["notes"]


def test_waiting_migration_does_not_block_writers_for_long(urls: Urls, tmp_path: Path) -> None:
    folder = with_another(tmp_path, "9001_slow.sql", "-- A column.\nALTER TABLE events ADD c int;")
    with psycopg.connect(urls.projector) as reader:
        reader.execute("SELECT count(*) FROM events").fetchone()
        with pytest.raises(
            MigrationBlocked, match=r"9001_slow\.sql did not get the locks .* 3 att"
        ):
            migrate(urls.owner, folder=folder, lock_waits=IMPATIENT)
        migrating = threading.Thread(
            target=migrate,
            args=(urls.owner,),
            kwargs={"folder": folder, "lock_waits": LockWaits(100, 1_000, 0.05)},
        )
        migrating.start()
        slowest_s = 0.0
        with psycopg.connect(urls.app, autocommit=True) as writer:
            for event in itertools.islice(generate(7), 50):
                started = time.monotonic()
                append(writer, UUID(int=7), [event])
                slowest_s = max(slowest_s, time.monotonic() - started)
                time.sleep(0.01)  # spread over the attempts of the migration
        assert migrating.is_alive()
    migrating.join()
    assert applied_migrations(urls.owner)[-1] == "9001_slow"
    assert slowest_s < 2.0


def test_index_of_how_to_is_created_concurrently(urls: Urls, tmp_path: Path) -> None:
    shown = re.findall(r"^ *```sql\n(.*?)```$", HOW_TO.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    folder = with_another(tmp_path, "9002_index.sql", textwrap.dedent(shown[-1]))
    assert not pending_migrations(urls.owner, folder=folder)[0].is_transactional
    with psycopg.connect(urls.app, autocommit=True) as writer:
        append(writer, UUID(int=7), list(itertools.islice(generate(7), 10)))
    migrate(urls.owner, folder=folder)
    with psycopg.connect(urls.owner) as connection:
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'events_topic'::regclass"
        assert connection.execute(valid).fetchone() == (True,)


def test_failed_migration_is_rolled_back_and_can_be_repeated(urls: Urls, tmp_path: Path) -> None:
    folder = with_another(
        tmp_path, "9003_bad.sql", "-- Bad.\nCREATE TABLE half (a int);\nSELECT 1 / 0;\n"
    )
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(urls.owner, folder=folder)
    with psycopg.connect(urls.owner) as connection:
        assert connection.execute("SELECT to_regclass('half')").fetchone() == (None,)
    with_another(tmp_path, "9003_bad.sql", "-- Good.\nCREATE TABLE half (a int);\n")
    assert migrate(urls.owner, folder=folder) == ["9003_bad"]


def test_lock_of_killed_migration_blocks_no_later_one(urls: Urls) -> None:
    with psycopg.connect(urls.owner) as connection:
        connection.execute("INSERT INTO yoyo_lock (locked, ctime, pid) VALUES (1, now(), 1)")
    assert migrate(urls.owner) == []


def test_concurrent_migrations_apply_each_file_once(empty: DatabaseUrls) -> None:
    reported: list[Migration] = []
    threads = [
        threading.Thread(
            target=migrate,
            args=(empty.owner,),
            kwargs={"on_migration": lambda migration, _: reported.append(migration)},
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.name for each in reported] == applied_migrations(empty.owner)
    assert len(reported) == len(list(SQL_FOLDER.glob("*.sql")))


def test_rehearsal_upgrades_only_a_copy() -> None:
    with reachable_folder(in_memory=True) as folder:
        home = folder / "home"
        with EmbeddedPostgres(home) as cluster:
            urls = prepare_database(cluster, "annals")
            migrate(urls.owner, upto="0001_events")
            reported: list[str] = []
            done = rehearse(home, lambda step, seconds: reported.append(f"{step} {seconds:.1f}"))
            assert done[0] == "migration 0002_projections"
            # All projections are one step.
            assert len(reported) == len(list(SQL_FOLDER.glob("*.sql")))
            assert applied_migrations(urls.owner) == ["0001_events"]
            assert not list(home.glob("rehearsal-*"))
