"""Rehearse an upgrade on a copy of the embedded database; the original is only read.

The copy is physical (pg_basebackup): it has the same pages, bloat and indexes, so that a migration
takes as long on it as on the original.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from runtime.home import PASSABLE_FOLDER_MODE
from server.postgres.account import server_account, server_folder
from server.postgres.clients import Clients
from server.postgres.databases import DATABASE_NAME
from server.postgres.embedded import EmbeddedPostgres, prepare_database, superuser_url_of_running
from server.postgres.upgrade import OnStep, upgrade

FREE_MIN_BYTES = 2 * 1024**3
"""Disk space left beside the copy, for the migrations and for other programs."""
PASSWORDS = "passwords.json"

DATABASES_BYTES = "SELECT sum(pg_database_size(oid))::bigint FROM pg_database"


class RehearsalError(Exception):
    """The rehearsal cannot be run; the message is one sentence."""


def rehearse(home: Path, on_step: OnStep = lambda step, seconds: None) -> list[str]:
    """Copy the database of a running home and upgrade the copy. Return the steps done.

    The copy is removed afterwards. Raises `RehearsalError`, and what `upgrade` raises.
    """
    clients = Clients.of_home(home)
    superuser_url = superuser_url_of_running(home, "postgres")
    with _copy_folder(home, superuser_url) as copy:
        shutil.copy(home / PASSWORDS, copy / PASSWORDS)
        folder = server_folder(copy)
        try:
            clients.run(
                superuser_url,
                "pg_basebackup",
                f"--pgdata={folder / 'data'}",
                "--checkpoint=fast",
                "--wal-method=stream",
                "--no-sync",
                **server_account(clients.folder / "data").popen_arguments(),
            )
            with EmbeddedPostgres(copy, binaries=clients.folder) as cluster:
                urls = prepare_database(cluster, DATABASE_NAME)
                return upgrade(urls.owner, urls.projector, on_step)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _copy_folder(home: Path, superuser_url: str) -> Iterator[Path]:
    """Yield a temporary folder in the home, so that it has the same disk and access."""
    with psycopg.connect(superuser_url) as connection:
        row = connection.execute(DATABASES_BYTES).fetchone()
    assert row is not None
    needed_bytes = row[0] + FREE_MIN_BYTES
    if shutil.disk_usage(home).free < needed_bytes:
        raise RehearsalError(
            f"The copy needs {needed_bytes // 1024**2:,} MiB of disk below {home}: free some."
        )
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=home) as folder:
        Path(folder).chmod(PASSABLE_FOLDER_MODE)
        yield Path(folder)
