"""Rebuild: shadow tables are compared, swapped in one transaction, and kept for rollback."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from commands.entities import EntityCommands
from domain.account import Account
from domain.contact import Contact
from domain.task import Task
from eventlog.connections import Connection, follow_connection
from eventlog.reading import readable_position
from eventlog.reading.part import Part
from eventlog.scope import Scope
from projections.engine.ledger.coverage import gaps
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.build import build_part
from projections.engine.rebuild.plan import plan
from projections.engine.rebuild.progress import Cancelled, cancel
from projections.engine.rebuild.refusal import RebuildRefused
from projections.engine.rebuild.retry import retry
from projections.engine.rebuild.runner import Rebuild, rollback
from projections.engine.rebuild.shadow import Shadow
from projections.engine.registry import PROJECTIONS
from readmodels import table_definitions
from tests.support.databases import Urls
from tests.support.failing_projection import companies, failing_for
from tests.support.processes import running_engine

pytestmark = pytest.mark.long(seconds=15)

DEFINITIONS = table_definitions()


@pytest.fixture
def accounts(commands: EntityCommands, scope: Scope) -> list[Account]:
    """Create 40 accounts with a contact and two tasks each, one task done; delete some of them."""
    made = []
    for number in range(40):
        fields = {
            "company": f"Company\t{number}\\",
            "type": "investor",
            "customFields": {"n": number},
        }
        outcome = commands.create(scope, Account, fields)
        assert isinstance(outcome.entity, Account)
        account_id = outcome.entity.id
        commands.create(scope, Contact, {"name": "Ada\nLovelace"}, account_id=account_id)
        commands.create(scope, Task, {"title": "a"}, account_id=account_id)
        commands.create(scope, Task, {"title": "b", "status": "done"}, account_id=account_id)
        if number % 10 == 0:
            commands.delete(scope, Account, account_id)
        made.append(outcome.entity)
    return made


def rows(database: Connection, table: str, schema: str = "read") -> list[tuple[object, ...]]:
    """Return all rows of a read table, in order."""
    statement = f"SELECT t::text FROM {schema}.{table} AS t ORDER BY 1"
    return database.execute(statement.encode()).fetchall()


@pytest.mark.parametrize("names", [("accounts",), tuple(sorted(PROJECTIONS))])
def test_rebuild_leaves_rows_unchanged(
    names: tuple[str, ...],
    accounts: list[Account],
    engine: ProjectionEngine,
    database: Connection,
    urls: Urls,
) -> None:
    engine.catch_up()
    tables = [table.name for name in names for table in PROJECTIONS[name].tables]
    before = {table: rows(database, table) for table in tables}
    with running_engine(engine):
        Rebuild(urls.projector, {name: DEFINITIONS[name] for name in names}, workers=2).run()
    assert {table: rows(database, table) for table in tables} == before
    for name in names:
        assert gaps(database, name, upto=readable_position(database)) == []


def test_unchanged_code_with_different_rows_is_not_swapped_in(
    accounts: list[Account], engine: ProjectionEngine, database: Connection, urls: Urls
) -> None:
    engine.catch_up()
    database.execute("UPDATE read.accounts SET company = 'forged' WHERE company LIKE '%13%'")
    with running_engine(engine), pytest.raises(RebuildRefused, match=r"1 rows differ.*forged"):
        Rebuild(urls.projector, {"accounts": DEFINITIONS["accounts"]}).run()
    assert any("forged" in company for company, _ in companies(database))
    state = database.execute("SELECT state FROM projection_rebuilds").fetchone()
    assert state == ("failed",)


def test_changed_code_is_swapped_in_and_can_be_rolled_back(
    accounts: list[Account], engine: ProjectionEngine, database: Connection, urls: Urls,
    commands: EntityCommands, scope: Scope,
) -> None:  # fmt: skip
    engine.catch_up()
    definition = DEFINITIONS["accounts"] + "\nSELECT 'another version';\n"
    assert plan(urls.projector, "accounts", definition).code_changed
    with running_engine(engine):
        Rebuild(urls.projector, {"accounts": definition}).run()
        assert not plan(urls.projector, "accounts", definition).code_changed
        commands.create(scope, Account, {"company": "Newer", "type": "partner"})
        rollback(urls.projector, "accounts", DEFINITIONS["accounts"])
        assert plan(urls.projector, "accounts", definition).code_changed
    assert "Newer" in {company for company, _ in companies(database)}
    assert gaps(database, "accounts", upto=readable_position(database)) == []


def test_cancelled_rebuild_leaves_live_tables_untouched(
    accounts: list[Account], engine: ProjectionEngine, database: Connection, urls: Urls
) -> None:
    engine.catch_up()
    before = rows(database, "accounts")

    def cancel_at_indexing(step: str, done: int, total: int) -> None:
        if step == "indexing":
            assert cancel(database, "accounts")

    definition = {"accounts": DEFINITIONS["accounts"]}
    with pytest.raises(Cancelled):
        Rebuild(urls.projector, definition, on_step=cancel_at_indexing).run()
    assert rows(database, "accounts") == before
    left = database.execute("SELECT FROM pg_namespace WHERE nspname LIKE 'read_%'").fetchall()
    assert left == []


def test_worker_that_waits_for_the_first_event_can_be_cancelled(
    accounts: list[Account], database: Connection, urls: Urls
) -> None:
    """PostgreSQL sorts a part before it sends the first event; here a lock makes it wait."""
    shadow = Shadow("accounts", DEFINITIONS["accounts"])
    with follow_connection(urls.projector, application_name="test") as connection:
        shadow.prepare(connection)
    calls = []

    def cancel_when_asked(events: int) -> None:
        calls.append(events)
        if len(calls) > 1:
            raise Cancelled

    with database.transaction():
        database.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Cancelled):
            build_part(
                urls.projector,
                [shadow.live],
                {shadow.name: shadow.schema},
                Part(1_000_000),
                cancel_when_asked,
            )
    assert calls == [0, 0]


@pytest.mark.parametrize("step", ["_in_parallel", "_catch_up", "_compare", "_swap"])
def test_crash_at_any_step_leaves_live_tables_and_next_rebuild_works(
    step: str,
    accounts: list[Account],
    engine: ProjectionEngine,
    database: Connection,
    urls: Urls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.catch_up()
    before = rows(database, "accounts")

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Rebuild, step, crash)
        with pytest.raises(KeyboardInterrupt):
            Rebuild(urls.projector, {"accounts": DEFINITIONS["accounts"]}).run()
    assert rows(database, "accounts") == before
    with running_engine(engine):
        Rebuild(urls.projector, {"accounts": DEFINITIONS["accounts"]}).run()
    assert rows(database, "accounts") == before


def test_killed_swap_does_not_stop_the_engine(
    accounts: list[Account], engine: ProjectionEngine, database: Connection
) -> None:
    database.execute("UPDATE projections SET state = 'handover'")  # as after a kill
    engine.catch_up()
    left = database.execute("SELECT name FROM projections WHERE position < readable_position()")
    assert left.fetchall() == []


def test_reads_during_swaps_are_never_stale(
    accounts: list[Account],
    engine: ProjectionEngine,
    urls: Urls,
    commands: EntityCommands,
    scope: Scope,
) -> None:
    engine.catch_up()
    stop = threading.Event()
    stale: list[str] = []
    reads = 0

    def write_and_read_back() -> None:
        nonlocal reads
        with psycopg.connect(urls.projector, autocommit=True) as connection:
            while not stop.is_set():
                fields = {"company": f"written {reads}", "type": "customer"}
                outcome = commands.create(scope, Account, fields)
                until = time.monotonic() + 10
                while time.monotonic() < until:
                    with connection.transaction():
                        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                        position = connection.execute(
                            "SELECT position FROM projections WHERE name = 'accounts'"
                        ).fetchone()
                        row = connection.execute(
                            "SELECT 1 FROM read.accounts WHERE id = %s", (outcome.entity.id,)
                        ).fetchone()
                    if position and position[0] >= outcome.position:
                        if row is None:
                            stale.append(fields["company"])
                        break
                else:
                    stale.append("never came")
                reads += 1

    threads = [threading.Thread(target=write_and_read_back) for _ in range(3)]
    with running_engine(engine):
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                Rebuild(urls.projector, {"accounts": DEFINITIONS["accounts"]}).run()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert stale == []
    assert reads > 20


def test_retry_restores_parked_entities_without_coverage_gaps(
    accounts: list[Account], database: Connection, urls: Urls
) -> None:
    company = "Company\t3\\"
    ProjectionEngine(urls.projector, [failing_for(PROJECTIONS["accounts"], company)]).catch_up()
    assert company not in dict(companies(database))
    still = retry(urls.projector, failing_for(PROJECTIONS["accounts"], company))
    assert [bool(each.error) for each in still] == [True]
    retried = retry(urls.projector, PROJECTIONS["accounts"])
    assert [each.error for each in retried] == [None]
    assert dict(companies(database))[company] == 1
    assert database.execute("SELECT count(*) FROM projection_parked").fetchone() == (0,)
    assert gaps(database, "accounts", upto=readable_position(database)) == []
