"""Databases of released versions: dumps in tests/schemas, one for each release.

    python -m tests.support.recorded_schemas      records the present state, at a release

A dump is named after its last migration. A migration in a dump is never edited again, because some
database has been made by it.
"""

from __future__ import annotations

import gzip
import itertools
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psycopg

from benchmarks.generated import as_batch, generate
from eventlog.migrations import applied_migrations
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from runtime.settings import REPOSITORY
from server.postgres.embedded import Cluster, prepare_database
from server.postgres.upgrade import upgrade
from tests.support.postgres_server import fast_cluster

SCHEMAS = REPOSITORY / "tests" / "schemas"
EVENTS = 500
WORKSPACES = (UUID(int=1), UUID(int=2))
OCCURRED = datetime(2026, 1, 1, tzinfo=UTC)
METADATA = orjson.dumps({"actor": {"type": "member", "id": "ada", "name": "Ada"}}).decode()

NO_HOSTS = "--exclude-table-data=public._yoyo_log"
"""Excludes the users and hosts that ran migrations."""

# The statement of every released version; writers of older versions keep sending it.
APPEND = "SELECT append_events(%s, %s::json, %s::json)"


def append(connection: psycopg.Connection[Any], workspace: UUID, events: list[Any]) -> list[int]:
    """Append events of `benchmarks.generated.generate`, as the API's role; return positions."""
    with connection.transaction():
        rows = connection.execute(APPEND, (workspace, as_batch(events, OCCURRED), METADATA))
        return [row[0] for row in rows.fetchall()]


def fill(app_url: str, projector_url: str) -> None:
    """Append events in two workspaces and project them."""
    with psycopg.connect(app_url, autocommit=True) as connection:
        for seed, workspace in enumerate(WORKSPACES):
            events = list(itertools.islice(generate(seed), EVENTS // len(WORKSPACES)))
            append(connection, workspace, events)
    ProjectionEngine(projector_url, PROJECTIONS.values()).catch_up()
    with psycopg.connect(projector_url) as connection:
        connection.execute("UPDATE projections SET holder = NULL")


def dump(cluster: Cluster, database: str, *options: str) -> str:
    """Dump a database as SQL, without the lines that differ from dump to dump."""
    text = _run(cluster, "pg_dump", database, b"", *options)
    lines = text.splitlines()
    return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict")))


def restore(cluster: Cluster, database: str, recorded: Path) -> None:
    """Fill an empty database from a recorded one."""
    options = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null")
    _run(cluster, "psql", database, gzip.decompress(recorded.read_bytes()), *options)


def record() -> Path:
    """Record the current schema; return the path of the dump."""
    with fast_cluster() as cluster:
        urls = prepare_database(cluster, "recorded")
        upgrade(urls.owner, urls.projector)
        fill(urls.app, urls.projector)
        path = SCHEMAS / f"{applied_migrations(urls.owner)[-1]}.sql.gz"
        path.parent.mkdir(exist_ok=True)
        # Without a time in the header, the same content is the same file.
        path.write_bytes(gzip.compress(dump(cluster, "recorded", NO_HOSTS).encode(), mtime=0))
        return path


def _run(cluster: Cluster, program: str, database: str, given: bytes, *options: str) -> str:
    done = subprocess.run(
        [
            str(cluster.programs / program),
            f"--dbname={cluster.url('postgres', database)}",
            *options,
        ],
        input=given,
        env=cluster.environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


if __name__ == "__main__":
    print(record())  # noqa: T201
