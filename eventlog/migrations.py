"""Versioned migrations of the log's schema: SQL files in eventlog/sql, applied in order by yoyo.

Migrations only add. Read tables are not among them: each projection makes its own.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import yoyo

SQL_FOLDER = Path(__file__).parent / "sql"
MIGRATION_LOCK_WAIT_S = 60


def migrate(owner_url: str) -> list[str]:
    """Bring the schema to the newest version; returns the names of the migrations applied.

    Two at once wait for each other. Raises `psycopg.Error` where the database refuses; what had
    been applied before stays, the failing migration leaves nothing behind.
    """
    backend = yoyo.get_backend(_yoyo_url(owner_url))
    try:
        with backend.lock(timeout=MIGRATION_LOCK_WAIT_S):
            pending = backend.to_apply(yoyo.read_migrations(str(SQL_FOLDER)))
            backend.apply_migrations(pending)
            return [migration.id for migration in pending]
    finally:
        backend.connection.close()


def applied(owner_url: str) -> list[str]:
    """The names of the migrations that the database has, oldest first."""
    with psycopg.connect(owner_url) as connection:
        rows = connection.execute(
            "SELECT migration_id FROM _yoyo_migration ORDER BY applied_at_utc, migration_id"
        )
        return [row[0] for row in rows]


def _yoyo_url(url: str) -> str:
    scheme, rest = url.split("://", 1)
    return f"{scheme.replace('postgres', 'postgresql') if scheme == 'postgres' else scheme}+psycopg://{rest}"
