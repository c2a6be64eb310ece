"""PostgreSQL servers for tests, each in a folder that is removed with it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import psycopg
from psycopg import sql

from runtime.home import make_home, write_private
from server.postgres import embedded
from server.postgres.embedded import Cluster, EmbeddedPostgres
from server.postgres.tuning import INITDB_ARGUMENTS, SERVER_SETTINGS, SUPERUSER

REACHABLE_MODE = 0o755
MEMORY_FOLDER = Path("/dev/shm")
MEMORY_FREE_MIN_BYTES = 4 * 1024**3
"""Two test processes need about a quarter of it each."""

FAST_SETTINGS = {
    # A power cut may cost this server its data, a kill -9 may not: committed data has been
    # written to the operating system.
    "fsync": "off",
    "full_page_writes": "off",
    "min_wal_size": "80MB",
    "max_wal_size": "512MB",
    "scram_iterations": "1",  # every test connects dozens of times
}


@contextmanager
def reachable_folder(*, in_memory: bool = False) -> Iterator[Path]:
    """Provide a temporary folder that the server's account can enter, unlike pytest's tmp_path.

    in_memory: put the folder on a tmpfs if one has enough room.
    """
    parent = _memory_folder() if in_memory else None
    folder = Path(tempfile.mkdtemp(prefix="annals-test-", dir=parent))
    try:
        folder.chmod(REACHABLE_MODE)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def fast_cluster(
    settings: Mapping[str, str] = FAST_SETTINGS,
    initdb_arguments: Sequence[str] = INITDB_ARGUMENTS,
    superuser_password: str | None = None,
) -> Iterator[Cluster]:
    """Run a server in memory and without fsync while the block lasts; starts in about a second.

    Tests of durability start an `EmbeddedPostgres`, which has the settings of production.
    """
    with reachable_folder(in_memory=True) as folder:
        server = EmbeddedPostgres(folder / "home")
        if superuser_password is not None:
            make_home(folder / "home")
            passwords = json.dumps({SUPERUSER: superuser_password})
            write_private(folder / "home" / "passwords.json", passwords)
        with ExitStack() as patches:
            patches.enter_context(mock.patch.dict(SERVER_SETTINGS, settings))
            no_sync = (*initdb_arguments, "--no-sync")
            patches.enter_context(mock.patch.object(embedded, "INITDB_ARGUMENTS", no_sync))
            patches.enter_context(mock.patch.object(embedded, "_require_durable"))
            cluster = server.start()
        try:
            _hash_password_again(cluster)
            yield cluster
        finally:
            server.stop()


def _memory_folder() -> Path | None:
    if not os.access(MEMORY_FOLDER, os.W_OK):
        return None
    has_room = shutil.disk_usage(MEMORY_FOLDER).free >= MEMORY_FREE_MIN_BYTES
    return MEMORY_FOLDER if has_room else None


def _hash_password_again(cluster: Cluster) -> None:
    """Hash the superuser's password with `scram_iterations`, which initdb does not know."""
    with psycopg.connect(cluster.superuser_url) as connection:
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                sql.Identifier(SUPERUSER), sql.Literal(cluster.passwords[SUPERUSER])
            )
        )
