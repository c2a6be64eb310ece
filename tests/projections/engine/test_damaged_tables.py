"""Damaged read tables: only their projection stops, it is named, and a rebuild corrects it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg
import pytest

from commands.entities import EntityCommands
from domain.account import Account
from domain.contact import Contact
from eventlog.connections import Connection
from eventlog.reading import readable_position
from eventlog.scope import Scope
from projections.engine.ledger.coverage import gaps
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.refusal import RebuildRefused
from projections.engine.rebuild.runner import Rebuild, rollback
from projections.engine.registry import PROJECTIONS, version
from readmodels import table_definitions
from tests.support.databases import Urls
from tests.support.failing_projection import companies
from tests.support.processes import running_engine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=15)

DEFINITIONS = table_definitions()
VERSIONS = {name: version(name, text) for name, text in DEFINITIONS.items()}
ACCOUNTS = 25

DAMAGE = {
    "a dropped table": "DROP TABLE read.accounts CASCADE",
    "a dropped table of counts": "DROP TABLE read.account_counts CASCADE",
    "a dropped column": "ALTER TABLE read.accounts DROP COLUMN company CASCADE",
    "a dropped index": "ALTER TABLE read.accounts DROP CONSTRAINT accounts_pkey CASCADE",
    "a revoked right": "REVOKE ALL ON read.accounts FROM annals_projector",
    "no rows": "TRUNCATE read.accounts",
    "an altered row": "UPDATE read.accounts SET company = 'forged' WHERE company = 'Company 3'",
    "a removed row": "DELETE FROM read.accounts WHERE company = 'Company 3'",
    "an altered count": "UPDATE read.account_counts SET n = n + 1",
    "no checkpoint": "DELETE FROM projections WHERE name = 'accounts'",
}
STOPPING = [
    "a dropped table",
    "a dropped table of counts",
    "a dropped column",
    "a dropped index",
    "a revoked right",
]
"""Damage by which no event can be applied any more."""


@pytest.fixture
def accounts(commands: EntityCommands, scope: Scope) -> list[UUID]:
    """Create accounts with a contact each."""
    made = []
    for number in range(ACCOUNTS):
        outcome = commands.create(
            scope, Account, {"company": f"Company {number}", "type": "customer"}
        )
        commands.create(scope, Contact, {"name": "Ada"}, account_id=outcome.entity.id)
        made.append(outcome.entity.id)
    return made


@contextmanager
def running(urls: Urls) -> Iterator[ProjectionEngine]:
    """Run an engine of all projections, with the versions of its code, while the block lasts."""
    engine = ProjectionEngine(urls.projector, PROJECTIONS.values(), versions=VERSIONS)
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield engine
    finally:
        engine.stop()
        thread.join()


def damage(database: Connection, statement: str) -> None:
    """Execute the statement as a superuser."""
    database.execute(statement.encode())


def wait_for_projections(database: Connection, *, without: str | None = None) -> None:
    """Wait until all projections but one have reached the end of the log."""
    statement = """SELECT count(*) FROM projections
                    WHERE name NOT LIKE '%%:%%' AND name IS DISTINCT FROM %s
                      AND position < readable_position()"""
    wait_until(
        lambda: database.execute(statement, (without,)).fetchone() == (0,),
        "the projections have caught up",
    )


def replace(urls: Urls, name: str = "accounts") -> None:
    """Rebuild a projection without a comparison."""
    Rebuild(urls.projector, {name: DEFINITIONS[name]}, replace_because="a test").run()


def checked(urls: Urls, name: str = "accounts") -> str:
    """Compare the rows of a projection with a fresh fold; return what is wrong."""
    (found,) = Rebuild(urls.projector, {name: DEFINITIONS[name]}).verify()
    return found.fault


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_corrected_by_replacing_the_tables(
    kind: str, accounts: list[UUID], urls: Urls, database: Connection,
    commands: EntityCommands, scope: Scope,
) -> None:  # fmt: skip
    with running(urls):
        wait_for_projections(database)
        before = companies(database)
        assert checked(urls) == ""
        damage(database, DAMAGE[kind])
        if kind != "no checkpoint":  # then nothing is known of the projection
            commands.create(scope, Account, {"company": "Newer", "type": "partner"})
            assert checked(urls) != ""
            with pytest.raises(RebuildRefused, match="--replace"):
                Rebuild(urls.projector, {"accounts": DEFINITIONS["accounts"]}).run()
        replace(urls)
        commands.create(scope, Account, {"company": "Newest", "type": "partner"})
        wait_for_projections(database)
        assert checked(urls) == ""
    assert set(before) < set(companies(database))
    assert "Newest" in dict(companies(database))
    assert gaps(database, "accounts", upto=readable_position(database)) == []


@pytest.mark.parametrize("kind", STOPPING)
def test_damaged_projection_stops_only_itself_and_says_so(
    kind: str, accounts: list[UUID], urls: Urls, database: Connection,
    commands: EntityCommands, scope: Scope,
) -> None:  # fmt: skip
    problem = "SELECT problem FROM projections WHERE name = 'accounts'"
    with running(urls):
        wait_for_projections(database)
        damage(database, DAMAGE[kind])
        commands.create(scope, Account, {"company": "Newer", "type": "partner"})
        wait_for_projections(database, without="accounts")
        wait_until(lambda: database.execute(problem).fetchone() != ("",), "the problem is recorded")
        commands.create(scope, Account, {"company": "Newest", "type": "partner"})
        wait_for_projections(database, without="accounts")
        behind = "SELECT name FROM projections WHERE position < readable_position()"
        assert database.execute(behind).fetchall() == [("accounts",)]
        replace(urls)
        assert database.execute(problem).fetchone() == ("",)
        wait_for_projections(database)
    assert {"Newer", "Newest"} <= set(dict(companies(database)))


def test_table_that_was_repaired_by_hand_is_used_again(
    accounts: list[UUID], urls: Urls, database: Connection, commands: EntityCommands, scope: Scope
) -> None:
    with running(urls):
        wait_for_projections(database)
        database.execute("ALTER TABLE read.accounts RENAME TO accounts_aside")
        commands.create(scope, Account, {"company": "Newer", "type": "partner"})
        wait_for_projections(database, without="accounts")
        database.execute("ALTER TABLE read.accounts_aside RENAME TO accounts")
        wait_for_projections(database)
        assert checked(urls) == ""
    assert "Newer" in dict(companies(database))


def test_only_projection_stops_and_resumes_while_pages_are_read_ahead(
    accounts: list[UUID], urls: Urls, database: Connection
) -> None:
    """No event can be applied at first, although the tables look whole to the engine."""
    database.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'feature_not_supported'; END $$
    """)
    database.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON read.accounts EXECUTE FUNCTION refuse()"
    )
    problem = "SELECT problem <> '' FROM projections WHERE name = 'accounts'"
    engine = ProjectionEngine(urls.projector, [PROJECTIONS["accounts"]], batch_events=5)
    with running_engine(engine):
        wait_until(lambda: database.execute(problem).fetchone() == (True,), "it is set aside")
        database.execute("DROP TRIGGER refuse ON read.accounts")
        upto = readable_position(database)
        position = "SELECT position FROM projections WHERE name = 'accounts'"
        wait_until(lambda: database.execute(position).fetchone() == (upto,), "it has resumed")
    assert gaps(database, "accounts", upto=upto) == []
    assert len(companies(database)) == ACCOUNTS


def test_replaced_tables_are_kept_and_can_be_rolled_back_to(
    accounts: list[UUID], urls: Urls, database: Connection, commands: EntityCommands, scope: Scope
) -> None:
    with running(urls):
        wait_for_projections(database)
        database.execute("UPDATE read.accounts SET company = 'forged' WHERE company = 'Company 3'")
        replace(urls)
        assert "forged" not in dict(companies(database))
        commands.create(scope, Account, {"company": "Newer", "type": "partner"})
        rollback(urls.projector, "accounts", DEFINITIONS["accounts"])
        wait_for_projections(database)
    assert {"forged", "Newer"} <= set(dict(companies(database)))


def test_incomplete_tables_are_kept_but_not_rolled_back_to(
    accounts: list[UUID], urls: Urls, database: Connection
) -> None:
    with running(urls):
        wait_for_projections(database)
        database.execute("DROP TABLE read.account_counts CASCADE")
        replace(urls)
    kept = database.execute("SELECT count(*) FROM read_previous_accounts.accounts").fetchone()
    assert kept == (ACCOUNTS,)
    with pytest.raises(RebuildRefused, match="no previous tables"):
        rollback(urls.projector, "accounts", DEFINITIONS["accounts"])


def test_check_of_rows_names_the_rows_and_leaves_them(
    accounts: list[UUID], urls: Urls, database: Connection, scope: Scope
) -> None:
    with running(urls):
        wait_for_projections(database)
        database.execute("UPDATE read.accounts SET company = 'forged' WHERE id = %s", accounts[3:4])
        database.execute("DELETE FROM read.accounts WHERE id = %s", accounts[4:5])
        (found,) = Rebuild(urls.projector, {"accounts": DEFINITIONS["accounts"]}).verify()
    rows = [each for each in found.differences if each.table == "accounts"]
    assert {each.key for each in rows} == {f"({scope.workspace_id},{id_})" for id_ in accounts[3:5]}
    assert [(each.first is None, "forged" in str(each)) for each in rows].count((True, False)) == 1
    assert "rows differ" in str(found)
    assert "forged" in dict(companies(database))
    kinds = database.execute("SELECT kind, state FROM projection_rebuilds").fetchall()
    assert kinds == [("verify", "failed")]
    left = database.execute("SELECT FROM pg_namespace WHERE nspname LIKE 'read_%'").fetchall()
    assert left == []


def test_reason_of_a_replacement_is_recorded(
    accounts: list[UUID], urls: Urls, database: Connection
) -> None:
    with running(urls):
        wait_for_projections(database)
        definition = {"accounts": DEFINITIONS["accounts"]}
        Rebuild(
            urls.projector, definition, replace_because="a lost disk", requested_by="ada@host"
        ).run()
    recorded = database.execute(
        "SELECT kind, state, replaces, reason, requested_by FROM projection_rebuilds"
    ).fetchall()
    assert recorded == [("rebuild", "done", True, "a lost disk", "ada@host")]


def test_damage_is_attributed_although_another_projection_rejects_a_row(
    accounts: list[UUID], urls: Urls, database: Connection, commands: EntityCommands, scope: Scope
) -> None:
    with running(urls):
        wait_for_projections(database)
        database.execute("ALTER TABLE read.contacts ADD CHECK (name <> 'Refused')")
        database.execute("DROP TABLE read.tasks CASCADE")
        commands.create(scope, Contact, {"name": "Refused"}, account_id=accounts[0])
        commands.create(scope, Contact, {"name": "Taken"}, account_id=accounts[0])
        wait_for_projections(database, without="tasks")
    parked = database.execute("SELECT projection, events FROM projection_parked").fetchall()
    assert parked == [("contacts", 1)]
    names = database.execute("SELECT name FROM read.contacts WHERE name <> 'Ada'").fetchall()
    assert names == [("Taken",)]


@pytest.mark.parametrize("name", sorted(PROJECTIONS))
def test_every_projection_can_be_made_again_from_nothing(
    name: str, accounts: list[UUID], urls: Urls, database: Connection
) -> None:
    with running(urls):
        wait_for_projections(database)
        for table in PROJECTIONS[name].tables:
            database.execute(f"DROP TABLE read.{table.name} CASCADE".encode())
        replace(urls, name)
        assert checked(urls, name) == ""


def test_missing_tables_are_named_by_the_refusal(urls: Urls, database: Connection) -> None:
    database.execute("DROP TABLE read.accounts CASCADE")
    with running(urls), pytest.raises(RebuildRefused, match="does not exist"):
        Rebuild(urls.projector, {"accounts": DEFINITIONS["accounts"]}).run()
    with psycopg.connect(urls.projector) as connection:
        found = connection.execute("SELECT state, summary FROM projection_rebuilds").fetchall()
    assert [state for state, _ in found] == ["failed"]
