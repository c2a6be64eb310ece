"""Versioned migrations of the log's schema: SQL files in eventlog/sql, applied in order.

Migrations only add. Read tables are not among them: each projection makes its own. yoyo reads the
files and keeps the record of what was applied; when and under which locks they run is decided here
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

SQL_FOLDER = Path(__file__).parent / "sql"

MIGRATION_LOCK_WAIT_S = 60
LOCK_WAIT_MS = 1_000
"""How long a migration waits for a table: readers and writers queue behind it no longer."""
LOCK_ATTEMPTS_MAX = 60
LOCK_PAUSE_S = 2.0
"""Between two attempts, so that those who queued behind the last one get through."""

SELECT_APPLIED = "SELECT migration_id FROM _yoyo_migration ORDER BY applied_at_utc, migration_id"


class MigrationBlocked(Exception):
    """Somebody kept the locks that a migration needs; the message is one sentence."""


@dataclass(frozen=True)
class Migration:
    """One SQL file."""

    name: str
    file: str
    purpose: str
    """The first sentence of the file."""
    is_transactional: bool
    """Whether it is applied whole or not at all; an index made concurrently cannot be."""


OnMigration = Callable[[Migration, float], None]
"""Told of each migration applied, and the seconds that it took, waiting for locks included."""


@dataclass(frozen=True)
class LockWaits:
    """How a migration waits for the locks that it needs."""

    lock_wait_ms: int = LOCK_WAIT_MS
    attempts_max: int = LOCK_ATTEMPTS_MAX
    pause_s: float = LOCK_PAUSE_S


def migrate(
    owner_url: str,
    *,
    folder: Path = SQL_FOLDER,
    upto: str | None = None,
    patience: LockWaits = LockWaits(),
    told: OnMigration = lambda migration, seconds: None,
) -> list[str]:
    """Bring the schema to the newest version; returns the names of the migrations applied.

    upto: the name of the last one to apply; all by default. Two at once wait for each other.
    Raises `MigrationBlocked`, and `psycopg.Error` where the database refuses; what had been applied
    before stays, the failing migration leaves nothing behind.
    """
    with _alone(owner_url):
        backend = yoyo.get_backend(_yoyo_url(owner_url))
        try:
            # Nobody but us takes that lock, and we have one that goes with its holder: what is left
            # of it is from a process that was killed.
            backend.break_lock()
            found = backend.to_apply(yoyo.read_migrations(str(folder)))
            chosen = [each for each in found if upto is None or each.id <= upto]
            for migration in chosen:
                started = time.monotonic()
                _apply_patiently(backend, migration, patience)
                told(_describe(migration), time.monotonic() - started)
            return [migration.id for migration in chosen]
        finally:
            backend.connection.close()


def pending(owner_url: str, *, folder: Path = SQL_FOLDER) -> list[Migration]:
    """What `migrate` would apply, in order. Changes nothing."""
    known = set(applied(owner_url))
    return [_describe(each) for each in yoyo.read_migrations(str(folder)) if each.id not in known]


def applied(owner_url: str) -> list[str]:
    """The names of the migrations that the database has, oldest first."""
    with psycopg.connect(owner_url) as connection:
        if connection.execute("SELECT to_regclass('_yoyo_migration')").fetchone() == (None,):
            return []
        return [row[0] for row in connection.execute(SELECT_APPLIED)]


@contextmanager
def _alone(owner_url: str) -> Iterator[None]:
    """Nobody else migrates this database; the lock goes with the process, however it ends."""
    with psycopg.connect(owner_url, autocommit=True) as connection:
        connection.execute(f"SET lock_timeout = '{MIGRATION_LOCK_WAIT_S}s'")
        try:
            connection.execute("SELECT pg_advisory_lock(%s, %s)", MIGRATION_LOCK)
        except psycopg.errors.LockNotAvailable:
            raise MigrationBlocked(
                f"Somebody else migrates or backs up this database for {MIGRATION_LOCK_WAIT_S} s"
                " already; try again later."
            ) from None
        yield


def _apply_patiently(backend: Any, migration: Any, patience: LockWaits) -> None:
    for attempt in range(patience.attempts_max):
        if attempt:
            time.sleep(patience.pause_s)
        try:
            _apply(backend, migration, patience.lock_wait_ms)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            reason = error.diag.message_primary
    raise MigrationBlocked(
        f"{Path(migration.path).name} did not get the locks that it needs in"
        f" {patience.attempts_max} attempts ({reason}): end the long transactions (pg_stat_activity"
        " shows them), then migrate again."
    )


def _apply(backend: Any, migration: Any, lock_wait_ms: int) -> None:
    """Apply a migration and note it, in one transaction unless the file says otherwise."""
    migration.load()
    backend.connection.execute(f"SET lock_timeout = {lock_wait_ms}")
    # yoyo prints the rows of a SELECT, which nobody asked for.
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
