"""The digest of an event covers every column, and is the same in Python, SQL and messages."""

from __future__ import annotations

from uuid import uuid4

import pytest
from psycopg import sql

from commands.entities import EntityCommands
from domain.account import Account
from domain.contact import Contact
from eventlog.connections import Connection, follow_connection
from eventlog.digest import DIGESTED
from eventlog.kafka.message import decode, digest_of, encode
from eventlog.reading import read_after
from eventlog.reading.digests import DESCRIBED, digests_between
from eventlog.reading.follow import read_rows_after
from eventlog.reading.part import Part, read_part
from eventlog.scope import Scope
from projections.engine.ledger.coverage import verify_all
from projections.engine.live.runner import ProjectionEngine
from tests.support.databases import Urls

CHANGES = {
    "position": "position + 100",
    "workspace_id": "gen_random_uuid()",
    "stream_id": "gen_random_uuid()",
    "stream_version": "stream_version + 1",
    "topic": "'account.updated'",
    "account_id": "gen_random_uuid()",
    "data": "replace(data::text, 'Ada', 'Eve')::json",
    "metadata": "replace(metadata::text, 'Ada', 'Eve')::json",
    "occurred_at": "occurred_at + interval '1 microsecond'",
    "recorded_at": "recorded_at - interval '1 microsecond'",
}


@pytest.fixture
def recorded(commands: EntityCommands, scope: Scope) -> None:
    """Record an account with a contact, and another workspace's account."""
    account = commands.create(scope, Account, {"company": "Acme", "type": "customer"}).entity.id
    commands.create(scope, Contact, {"name": "Ada\t\\ é"}, account_id=account)
    commands.create(Scope(uuid4()), Account, {"company": "Acme 2", "type": "partner"})


def test_every_column_of_the_log_is_digested(database: Connection) -> None:
    columns = database.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0"
        " AND NOT attisdropped"
    ).fetchall()
    # The others are set from these, and compared with them.
    assert {name for (name,) in columns} - DESCRIBED.keys() == set(DIGESTED) == set(CHANGES)


@pytest.mark.parametrize("column", sorted(CHANGES))
def test_change_of_any_column_is_found(
    column: str, recorded: None, engine: ProjectionEngine, database: Connection, urls: Urls
) -> None:
    engine.catch_up()
    with follow_connection(urls.projector, application_name="test") as connection:
        assert verify_all(connection) == []
        database.execute("ALTER TABLE events DISABLE TRIGGER events_are_never_changed")
        if column == "position":
            database.execute("ALTER TABLE events ALTER position DROP IDENTITY")
        changed = database.execute(
            sql.SQL("UPDATE events SET {} = {} WHERE position = 2").format(
                sql.Identifier(column), sql.SQL(CHANGES[column])
            )
        )
        assert changed.rowcount == 1
        assert verify_all(connection) != []


@pytest.mark.parametrize("time_zone", ["UTC", "Asia/Kathmandu"])
def test_digest_is_the_same_on_every_path(
    time_zone: str, recorded: None, database: Connection, urls: Urls
) -> None:
    with follow_connection(urls.projector, application_name="test") as connection:
        page = read_after(connection, 0, 100)
        expected = {event.position: event.digest for event in page.events}
        assert len(expected) == 3
        part = read_part(connection, Part(page.upto))
        assert {event.position: event.digest for event in part} == expected
        messages = [encode(row) for row in read_rows_after(connection, 0, 100).rows]
        assert {(event := decode(each)).position: event.digest for each in messages} == expected
        assert dict(map(digest_of, messages)) == expected
    database.execute(f"SET TimeZone = '{time_zone}'".encode())
    assert digests_between(database, 0, page.upto) == expected
