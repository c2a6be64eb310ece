"""Versioned migrations of the log's schema: SQL files in eventlog/sql, applied in order.

Migrations only add. They do not cover read tables, which the projections create. yoyo reads the
files and records which were applied. This module decides when and under which locks they run
(docs/adr/0005-migrations-and-backup.md).
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yoyo

from eventlog.locks import MIGRATION_LOCK
from eventlog.retries import LOCK_CONFLICTS, poll_until, retry_locks

SQL_FOLDER = Path(__file__).parent / "sql"

MIGRATION_LOCK_WAIT_S = 60
LOCK_POLL_S = 0.1
LOCK_WAIT_MS = 1_000
"""How long a migration waits for a table, while readers and writers queue behind it."""
LOCK_ATTEMPTS_MAX = 60
LOCK_PAUSE_S = 2.0
"""Pause between two attempts, in which transactions that queued behind the last one proceed."""

SELECT_APPLIED = "SELECT migration_id FROM _yoyo_migration ORDER BY applied_at_utc, migration_id"


class MigrationBlocked(Exception):
    """A migration did not get its locks. The message is one sentence."""


@dataclass(frozen=True)
class Migration:
    """An SQL file of the schema."""

    name: str
    file: str
    purpose: str
    """The first sentence of the file."""
    is_transactional: bool
    """Whether it runs in a transaction; the concurrent creation of an index cannot."""


OnMigration = Callable[[Migration, float], None]
"""Called after each migration with the seconds that it took, including waits for locks."""


@dataclass(frozen=True)
class LockWaits:
    """How a migration waits for its locks."""

    lock_wait_ms: int = LOCK_WAIT_MS
    attempts_max: int = LOCK_ATTEMPTS_MAX
    pause_s: float = LOCK_PAUSE_S


def migrate(
    owner_url: str,
    *,
    folder: Path = SQL_FOLDER,
    upto: str | None = None,
    lock_waits: LockWaits = LockWaits(),
    on_migration: OnMigration = lambda migration, seconds: None,
) -> list[str]:
    """Bring the schema to the newest version; return the names of the migrations applied.

    upto: the name of the last migration to apply, by default the newest. Concurrent calls wait for
    each other. Raises `MigrationBlocked`, and `psycopg.Error` if the database refuses a statement.
    A failing migration is rolled back if it runs in a transaction; those before it stay.
    """
    with _migration_lock(owner_url):
        backend = yoyo.get_backend(_yoyo_url(owner_url))
        try:
            # The advisory lock is held, so a lock row of yoyo is left from a killed process.
            backend.break_lock()
            found = backend.to_apply(yoyo.read_migrations(str(folder)))
            chosen = [each for each in found if upto is None or each.id <= upto]
            for migration in chosen:
                started = time.monotonic()
                _apply_with_retries(backend, migration, lock_waits)
                on_migration(_describe(migration), time.monotonic() - started)
            return [migration.id for migration in chosen]
        finally:
            backend.connection.close()


def pending_migrations(owner_url: str, *, folder: Path = SQL_FOLDER) -> list[Migration]:
    """The migrations that `migrate` would apply, in order."""
    done = set(applied_migrations(owner_url))
    return [_describe(each) for each in yoyo.read_migrations(str(folder)) if each.id not in done]


def applied_migrations(owner_url: str) -> list[str]:
    """The names of the migrations that were applied to the database, oldest first."""
    with psycopg.connect(owner_url) as connection:
        if connection.execute("SELECT to_regclass('_yoyo_migration')").fetchone() == (None,):
            return []
        return [row[0] for row in connection.execute(SELECT_APPLIED)]


@contextmanager
def _migration_lock(owner_url: str) -> Iterator[None]:
    """Keep others from migrating the database. The server frees the lock if the process dies."""
    with psycopg.connect(owner_url, autocommit=True) as connection:
        if not wait_for_lock(connection, "pg_try_advisory_lock", MIGRATION_LOCK_WAIT_S):
            raise MigrationBlocked(
                "Another migration or a backup has been running on this database for"
                f" {MIGRATION_LOCK_WAIT_S} s; try again later."
            )
        yield


def wait_for_lock(connection: psycopg.Connection[Any], function: str, wait_s: float) -> bool:
    """Take the lock of migrations with this function of PostgreSQL; False after `wait_s` seconds.

    It asks again and again: a statement that waits would hold a snapshot, and the concurrent
    creation of an index by the holder of the lock would wait for that. The connection must not be
    in a transaction.
    """
    statement = f"SELECT {function}(%s, %s)".encode()
    return poll_until(
        lambda: connection.execute(statement, MIGRATION_LOCK).fetchone() == (True,),
        wait_s,
        LOCK_POLL_S,
    )


def _apply_with_retries(backend: Any, migration: Any, lock_waits: LockWaits) -> None:
    retrying = retry_locks(lock_waits.attempts_max, lock_waits.pause_s)
    try:
        retrying(_apply, backend, migration, lock_waits.lock_wait_ms)
    except LOCK_CONFLICTS as error:
        raise MigrationBlocked(
            f"{Path(migration.path).name} did not get the locks that it needs in"
            f" {lock_waits.attempts_max} attempts ({error.diag.message_primary}): end the long"
            " transactions (pg_stat_activity shows them), then migrate again."
        ) from None


def _apply(backend: Any, migration: Any, lock_wait_ms: int) -> None:
    """Apply a migration and record it, in one transaction unless the file says otherwise."""
    migration.load()
    backend.connection.execute(f"SET lock_timeout = {lock_wait_ms}")
    # yoyo prints the rows of a SELECT.
    with redirect_stdout(io.StringIO()):
        if not migration.use_transactions:
            migration.process_steps(backend, "apply")
        with backend.transaction():
            if migration.use_transactions:
                migration.process_steps(backend, "apply")
            backend.mark_one(migration)


def _describe(migration: Any) -> Migration:
    migration.load()
    sentence, _, _ = " ".join(migration.module.__doc__.split()).partition(". ")
    return Migration(
        name=migration.id,
        file=Path(migration.path).name,
        purpose=sentence.rstrip("."),
        is_transactional=migration.use_transactions,
    )


def _yoyo_url(url: str) -> str:
    _scheme, rest = url.split("://", 1)
    return f"postgresql+psycopg://{rest}"
