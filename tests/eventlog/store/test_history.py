"""History is append-only for every role, and a workspace sees only its own events."""

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
    """Append an event in the workspace; return its stream."""
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


def all_events(urls: Urls) -> list[tuple[object, ...]]:
    with psycopg.connect(urls.superuser) as connection:
        return connection.execute("SELECT e::text FROM events e ORDER BY position").fetchall()


@pytest.mark.parametrize("role", ["owner", "app", "projector", "superuser"])
def test_history_cannot_be_changed(urls: Urls, workspace: UUID, recorded: UUID, role: str) -> None:
    before = all_events(urls)
    assert len(before) == 1
    with acting_in(getattr(urls, role), workspace) as connection:
        for change in CHANGES.values():
            with pytest.raises(REFUSED):
                connection.execute(change.encode())
            connection.rollback()
    assert all_events(urls) == before


@pytest.mark.parametrize("change", CHANGES)
def test_replica_role_cannot_change_history(urls: Urls, recorded: UUID, change: str) -> None:
    before = all_events(urls)
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            connection.execute(CHANGES[change].encode())
    assert all_events(urls) == before


@pytest.mark.parametrize(
    ("column", "value"), [("position", "7"), ("recorded_at", "'2001-01-01T00:00Z'")]
)
def test_client_cannot_set_position_or_time_of_recording(
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


def test_app_cannot_take_positions_without_events(urls: Urls) -> None:
    with psycopg.connect(urls.app, autocommit=True) as connection:
        for take in ("nextval('events_position_seq')", "setval('events_position_seq', 1)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT {take}".encode())


def test_app_cannot_access_another_workspace(urls: Urls, workspace: UUID, recorded: UUID) -> None:
    with acting_in(urls.app, uuid4()) as stranger:
        assert stranger.execute("SELECT count(*) FROM events").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            stranger.execute(INSERT.encode(), (workspace, uuid4()))
    with acting_in(urls.app, workspace) as member:
        assert member.execute("SELECT count(*) FROM events").fetchone() == (1,)


def test_app_without_workspace_has_no_access(urls: Urls, workspace: UUID, recorded: UUID) -> None:
    with psycopg.connect(urls.app, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
        with connection.transaction():
            connection.execute(
                "SELECT set_config('annals.workspace_id', %s, true)", (str(workspace),)
            )
        # The setting is now '' instead of NULL.
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(INSERT.encode(), (workspace, uuid4()))


def test_projector_reads_every_workspace_and_cannot_write(
    urls: Urls, workspace: UUID, recorded: UUID
) -> None:
    with psycopg.connect(urls.projector, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(INSERT.encode(), (workspace, uuid4()))


def test_owner_cannot_write(urls: Urls, workspace: UUID, recorded: UUID) -> None:
    with (
        acting_in(urls.owner, workspace) as owner,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"),
    ):
        owner.execute(INSERT.encode(), (workspace, uuid4()))


def test_backup_by_role_under_row_security_fails(urls: Urls, recorded: UUID) -> None:
    """pg_dump sets row_security off, so that it fails instead of writing an empty file."""
    with psycopg.connect(urls.owner, autocommit=True) as owner:
        owner.execute("SET row_security = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            owner.execute("SELECT count(*) FROM events")
    with psycopg.connect(urls.superuser, autocommit=True) as superuser:
        superuser.execute("SET row_security = off")
        assert superuser.execute("SELECT count(*) FROM events").fetchone() == (1,)
