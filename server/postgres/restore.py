"""Restore a backup into an empty home and verify the result.

Each file of the backup is compared with the manifest before anything is written. After loading, the
log and the read tables are compared with the manifest by count and digest. Finally the log is
replayed: each projection is folded from the log up to its checkpoint and compared with its restored
rows.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eventlog.connections import Connection, follow_connection
from eventlog.reading.counts import count_events
from eventlog.reading.part import Part
from projections.engine.install import READ_SCHEMA
from projections.engine.rebuild.build import build_part
from projections.engine.rebuild.compare import checksum, compared_tables
from projections.engine.rebuild.sessions import fold_processes
from projections.engine.rebuild.shadow import Shadow
from projections.engine.registry import PROJECTIONS
from readmodels import table_definitions
from runtime.home import write_private
from server.postgres.account import FOLDER_RECORD
from server.postgres.backup import (
    DUMP,
    DUMP_JOBS,
    HOME_FILES,
    BackupError,
    Contents,
    Manifest,
    contents_of,
    one_snapshot,
    read_backup,
)
from server.postgres.clients import Clients
from server.postgres.databases import DATABASE_NAME
from server.postgres.embedded import EmbeddedPostgres, prepare_database, superuser_url_of_running
from server.postgres.upgrade import upgrade

PART_EVENTS_MIN = 20_000
"""Smallest number of events for which another process is started."""

SELECT_PROJECTIONS = """
SELECT name, version, position, EXISTS (SELECT FROM projection_offsets WHERE projection = name)
  FROM projections
"""

PrintLine = Callable[[str], None]


@dataclass(frozen=True)
class ReplayResult:
    """The projections by the result of comparing their restored rows with a replay of the log."""

    equal: list[str]
    different: list[str]
    skipped: list[str]
    """Projections whose rows were written by other code, or by consumers of Kafka."""


def restore(folder: Path, home: Path, print_line: PrintLine = lambda line: None) -> ReplayResult:
    """Restore a backup into an empty or new home. Return the result of replaying the log.

    The home's server is stopped afterwards. If the backup is damaged, the home is removed; once its
    content matches the manifest it is kept, even if the replay finds differences. Raises
    `BackupError`, `ClientError`, `EmbeddedPostgresError`, `psycopg.Error`, `OSError`.
    """
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise BackupError(f"{home} is not empty: name an empty or new home.")
    manifest = read_backup(folder)
    print_line(f"{len(manifest.files)} files match the manifest.")
    server = EmbeddedPostgres(home)
    try:
        try:
            urls = prepare_database(server.start(), DATABASE_NAME)
            _load(folder, home)
            _require_same_contents(manifest, home)
            for name in HOME_FILES:
                if name in manifest.files:
                    write_private(home / name, (folder / name).read_text("utf-8"))
        except BaseException:
            server.stop()
            _remove(home)
            raise
        print_line(f"{manifest.contents.events:,} events and the read tables match the manifest.")
        for step in upgrade(urls.owner, urls.projector):
            print_line(step)
        return replay(urls.projector)
    finally:
        server.stop()


def replay(projector_url: str, workers: int | None = None) -> ReplayResult:
    """Fold the log into shadow tables and compare them with the live ones.

    No projector may be running.
    """
    definitions = table_definitions()
    equal: list[str] = []
    different: list[str] = []
    skipped: list[str] = []
    by_position: dict[int, list[Shadow]] = defaultdict(list)
    with follow_connection(projector_url, application_name="annals-replay") as connection:
        for name, version, position, is_unaligned in connection.execute(SELECT_PROJECTIONS):
            if name not in PROJECTIONS:
                continue
            shadow = Shadow(name, definitions[name])
            if is_unaligned or shadow.version != version:
                skipped.append(name)
            else:
                by_position[position].append(shadow)
        for position, shadows in by_position.items():
            for shadow in shadows:
                shadow.prepare(connection)
            _build(connection, projector_url, shadows, position, workers or os.cpu_count() or 1)
            for shadow in shadows:
                shadow.finish(connection, position)
                (equal if _is_equal(connection, shadow) else different).append(shadow.name)
                shadow.drop(connection)
    return ReplayResult(sorted(equal), sorted(different), sorted(skipped))


def _load(folder: Path, home: Path) -> None:
    Clients.of_home(home).run(
        superuser_url_of_running(home, DATABASE_NAME),
        "pg_restore",
        f"--jobs={DUMP_JOBS}",
        "--exit-on-error",
        f"--dbname={DATABASE_NAME}",
        folder.absolute() / DUMP,
    )


def _require_same_contents(manifest: Manifest, home: Path) -> None:
    with one_snapshot(superuser_url_of_running(home, DATABASE_NAME)) as connection:
        found = contents_of(connection)
    if found != manifest.contents:
        difference = _describe_difference(manifest.contents, found)
        raise BackupError(f"The restored database differs from the backup: {difference}.")


def _describe_difference(expected: Contents, found: Contents) -> str:
    """Describe the first difference."""
    ranges = {each.first: each for each in found.ranges}
    for each in expected.ranges:
        if ranges.get(each.first) != each:
            return f"the log differs in the range of positions from {each.first} on"
    for name, table in expected.tables.items():
        if found.tables.get(name) != table:
            return f"the table {name} has other rows"
    return "its migrations, its checkpoints or the length of its log differ"


def _build(
    connection: Connection, url: str, shadows: list[Shadow], position: int, workers: int
) -> None:
    events = count_events(connection, upto=position)
    parts = min(workers, 1 + events // PART_EVENTS_MIN)
    schemas = {shadow.name: shadow.schema for shadow in shadows}
    jobs = [(url, schemas, Part(position, number, parts)) for number in range(parts)]
    if len(jobs) == 1:
        _build_part(jobs[0])
        return
    with fold_processes(parts) as pool:
        list(pool.map(_build_part, jobs))


def _build_part(job: tuple[str, dict[str, str], Part]) -> None:
    url, schemas, part = job
    build_part(url, [PROJECTIONS[name] for name in schemas], schemas, part, lambda events: None)


def _is_equal(connection: Connection, shadow: Shadow) -> bool:
    return all(
        checksum(connection, READ_SCHEMA, table) == checksum(connection, shadow.schema, table)
        for table in compared_tables(shadow.live)
    )


def _remove(home: Path) -> None:
    """Remove a home that was empty before, and its server folder if that is outside of it."""
    record = home / FOLDER_RECORD
    if record.exists():
        shutil.rmtree(Path(record.read_text("utf-8").strip()), ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)
