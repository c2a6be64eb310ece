"""History is only added to, whoever asks; and a workspace has only its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import psycopg
import pytest

from eventlog.connections import Connection
from tests.support.databases import Urls

COLUMNS = "workspace_id, stream_id, stream_version, topic, data, metadata, occurred_at"
INSERT = f"""
INSERT INTO events ({COLUMNS}) VALUES (%s, %s, 1, 'account.created', '{{}}', '{{}}', now())
RETURNING position
"""
CHANGES = {
    "update": "UPDATE events SET topic = 'other'",
    "update of nothing": "UPDATE events SET topic = 'other' WHERE false",
    "delete": "DELETE FROM events",
    "truncate": "TRUNCATE events",
    "merge": "MERGE INTO events USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    "upsert": f"""
        INSERT INTO events ({COLUMNS})
        VALUES (gen_random_uuid(), gen_random_uuid(), 1, 'account.created', '{{}}', '{{}}', now())
        ON CONFLICT (stream_id, stream_version) DO UPDATE SET topic = 'other'
    """,
}
REFUSED = (psycopg.errors.RestrictViolation, psycopg.errors.InsufficientPrivilege)


@pytest.fixture
def recorded(urls: Urls, workspace: UUID) -> UUID:
    """The stream of an event that is in the workspace."""
    stream = uuid4()
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        connection.execute(INSERT.encode(), (workspace, stream))
    return stream


@contextmanager
def acting_in(url: str, workspace: UUID) -> Iterator[Connection]:
    with psycopg.connect(url) as connection:
        connection.execute("SELECT set_config('annals.workspace_id', %s, false)", (str(workspace),))
        connection.commit()
        yield connection
        connection.rollback()


def everything(urls: Urls) -> list[tuple[object, ...]]:
    with psycopg.connect(urls.superuser) as connection:
        return connection.execute("SELECT e::text FROM events e ORDER BY position").fetchall()


@pytest.mark.parametrize("role", ["owner", "app", "projector", "superuser"])
def test_history_cannot_be_changed(urls: Urls, workspace: UUID, recorded: UUID, role: str) -> None:
    before = everything(urls)
    assert len(before) == 1
    with acting_in(getattr(urls, role), workspace) as connection:
        for change in CHANGES.values():
            with pytest.raises(REFUSED):
                connection.execute(change.encode())
            connection.rollback()
    assert everything(urls) == before


@pytest.mark.parametrize("change", CHANGES)
def test_playing_a_replica_does_not_help(urls: Urls, recorded: UUID, change: str) -> None:
    before = everything(urls)
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            connection.execute(CHANGES[change].encode())
    assert everything(urls) == before


@pytest.mark.parametrize(
    ("column", "value"), [("position", "7"), ("recorded_at", "'2001-01-01T00:00Z'")]
)
def test_position_and_time_of_recording_are_the_databases_to_give(
    urls: Urls, workspace: UUID, column: str, value: str
) -> None:
    statement = INSERT.replace(
        "occurred_at) VALUES", f"occurred_at, {column}) OVERRIDING SYSTEM VALUE VALUES"
    ).replace("now())", f"now(), {value})")
    with (
        acting_in(urls.app, workspace) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode(), (workspace, uuid4()))


def test_the_app_cannot_take_positions_without_events(urls: Urls) -> None:
    with psycopg.connect(urls.app, autocommit=True) as connection:
        for take in ("nextval('events_position_seq')", "setval('events_position_seq', 1)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT {take}".encode())


def test_another_workspace_does_not_exist(urls: Urls, workspace: UUID, recorded: UUID) -> None:
    with acting_in(urls.app, uuid4()) as stranger:
        assert stranger.execute("SELECT count(*) FROM events").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            stranger.execute(INSERT.encode(), (workspace, uuid4()))
    with acting_in(urls.app, workspace) as member:
        assert member.execute("SELECT count(*) FROM events").fetchone() == (1,)


def test_without_a_workspace_there_is_nothing(urls: Urls, workspace: UUID, recorded: UUID) -> None:
    with psycopg.connect(urls.app, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
        with connection.transaction():
            connection.execute(
                "SELECT set_config('annals.workspace_id', %s, true)", (str(workspace),)
            )
        # Now the setting is '' and no longer NULL.
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(INSERT.encode(), (workspace, uuid4()))


def test_projectors_read_every_workspace_and_add_nothing(
    urls: Urls, workspace: UUID, recorded: UUID
) -> None:
    with psycopg.connect(urls.projector, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(INSERT.encode(), (workspace, uuid4()))


def test_the_owner_adds_nothing(urls: Urls, workspace: UUID, recorded: UUID) -> None:
    with (
        acting_in(urls.owner, workspace) as owner,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"),
    ):
        owner.execute(INSERT.encode(), (workspace, uuid4()))


def test_a_backup_by_a_role_that_policies_hold_fails_and_is_not_empty(
    urls: Urls, recorded: UUID
) -> None:
    """pg_dump turns row_security off, so that it is told and does not write an empty file."""
    with psycopg.connect(urls.owner, autocommit=True) as owner:
        owner.execute("SET row_security = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            owner.execute("SELECT count(*) FROM events")
    with psycopg.connect(urls.superuser, autocommit=True) as superuser:
        superuser.execute("SET row_security = off")
        assert superuser.execute("SELECT count(*) FROM events").fetchone() == (1,)
