"""The check of the whole log names what is missing, and reports how far it is."""

from __future__ import annotations

from itertools import pairwise

import psycopg
import pytest

from commands.entities import EntityCommands
from domain.account import Account
from eventlog.connections import Connection, follow_connection
from eventlog.scope import Scope
from projections.engine.ledger import coverage
from projections.engine.ledger.verification import verify_log
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.runner import Rebuild
from projections.engine.registry import PROJECTIONS
from readmodels import table_definitions
from tests.support.databases import Urls

LAST = 10 * coverage.BUCKET_POSITIONS + 7


def found_by_verify(urls: Urls) -> list[str]:
    with follow_connection(urls.projector, application_name="test") as connection:
        return verify_log(connection, table_definitions())


@pytest.mark.parametrize("name", sorted(PROJECTIONS))
def test_missing_table_of_any_projection_is_named(
    name: str, database: Connection, urls: Urls
) -> None:
    assert found_by_verify(urls) == []
    for table in PROJECTIONS[name].tables:
        database.execute(f"DROP TABLE read.{table.name} CASCADE".encode())
    assert found_by_verify(urls) == [
        f"{name}: its table read.{table.name} is missing" for table in PROJECTIONS[name].tables
    ]


def test_missing_checkpoint_is_named(database: Connection, urls: Urls) -> None:
    database.execute("DELETE FROM projections WHERE name = 'accounts'")
    assert found_by_verify(urls) == ["accounts: it has no checkpoint"]


@pytest.mark.parametrize(
    ("tampering", "named"),
    [
        (
            "CREATE OR REPLACE FUNCTION read.search_accounts(workspace uuid, pattern text)"
            " RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER"
            " SET search_path = read, public, pg_temp AS 'SELECT id FROM read.accounts'",
            "has another function read.search_accounts",
        ),
        (
            "ALTER FUNCTION read.search_accounts SET search_path = read, public",
            "has another function read.search_accounts",
        ),
        (
            "CREATE FUNCTION read.all_accounts() RETURNS SETOF uuid LANGUAGE sql SECURITY DEFINER"
            " AS 'SELECT id FROM read.accounts'",
            "has another function read.all_accounts",
        ),
        ("DROP FUNCTION read.search_accounts", "lacks function read.search_accounts"),
    ],
)
def test_changed_function_of_the_read_tables_is_named(
    tampering: str, named: str, database: Connection, urls: Urls
) -> None:
    assert found_by_verify(urls) == []
    database.execute(tampering.encode())
    assert found_by_verify(urls) == [f"the database {named}"]


def test_rebuild_drops_the_search_function_of_an_earlier_version(urls: Urls) -> None:
    with psycopg.connect(urls.projector, autocommit=True) as projector:
        projector.execute(
            """CREATE FUNCTION read.search_accounts_by_letters(workspace uuid, letters text)
               RETURNS SETOF uuid LANGUAGE sql AS 'SELECT id FROM read.accounts'"""
        )
    named = "the database has another function read.search_accounts_by_letters"
    assert found_by_verify(urls) == [named]
    Rebuild(urls.projector, {"accounts": table_definitions()["accounts"]}).run()
    assert found_by_verify(urls) == []


@pytest.mark.parametrize("column", ["action_topic", "actor_id", "api_key_id", "command_id"])
def test_column_that_hides_an_event_from_the_audit_trail_is_an_altered_event(
    column: str,
    commands: EntityCommands,
    scope: Scope,
    engine: ProjectionEngine,
    database: Connection,
    urls: Urls,
) -> None:
    fields = {"company": "Acme", "type": "customer"}
    positions = [commands.create(scope, Account, fields).position for _ in range(3)]
    engine.catch_up()
    assert found_by_verify(urls) == []
    with database.transaction():
        database.execute("ALTER TABLE events DISABLE TRIGGER events_are_never_changed")
        database.execute(
            f"UPDATE events SET {column} = 'x' WHERE position = %s".encode(), positions[1:2]
        )
        database.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_never_changed")
    altered = [f"{name}: altered at position {positions[1]}" for name in PROJECTIONS]
    assert found_by_verify(urls) == altered


@pytest.fixture
def far_apart(
    commands: EntityCommands, scope: Scope, engine: ProjectionEngine, database: Connection
) -> list[int]:
    """Events in several slices of the log, all projected; return their positions."""
    positions = []
    for start in (1, 2_500, 3_000, 7_000, LAST):
        database.execute("SELECT setval('events_position_seq', %s, false)", (start,))
        created = commands.create(scope, Account, {"company": "Acme", "type": "customer"})
        positions.append(created.position)
    engine.catch_up()
    return positions


def test_every_slice_of_the_log_is_compared(
    far_apart: list[int], database: Connection, urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "SLICE_POSITIONS", 2 * coverage.BUCKET_POSITIONS)
    reported: list[tuple[int, int]] = []
    with follow_connection(urls.projector, application_name="test") as connection:
        found = verify_log(
            connection,
            table_definitions(),
            on_progress=lambda *progress: reported.append(progress),
        )
    assert found == []
    assert len(reported) == 6
    assert all(earlier < later for earlier, later in pairwise(reported))
    assert reported[-1] == (LAST, LAST)
    database.execute("ALTER TABLE events DISABLE TRIGGER events_are_never_changed")
    for position in far_apart:
        database.execute("UPDATE events SET topic = topic || '2' WHERE position = %s", (position,))
        assert f"accounts: altered at position {position}" in found_by_verify(urls)
