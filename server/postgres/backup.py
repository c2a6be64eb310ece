"""A backup in a folder: a dump of one snapshot, and a manifest of the content of that snapshot.

The dump has the directory format of pg_dump. The manifest, backup.json, lists what a restored
database has to contain: count and digest of each range of positions of the log, and the checksum of
each read table. Dump and manifest read the same snapshot, so they contain the same events although
writers continue (docs/adr/0005-migrations-and-backup.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import psycopg
from pydantic import BaseModel, ConfigDict, ValidationError

from eventlog.connections import (
    Connection,
    follow_connection,
    server_settings,
)
from eventlog.migrations import SELECT_APPLIED, wait_for_lock
from eventlog.reading.counts import log_size
from eventlog.reading.digests import range_sums
from eventlog.reading.positions import readable_position
from projections.engine.install import READ_SCHEMA
from projections.engine.rebuild.compare import ComparedTable, checksum
from replay.folders import atomic_folder
from runtime.home import PRIVATE_FOLDER_MODE, write_private
from server.postgres.clients import Clients

MANIFEST = "backup.json"
MANIFEST_DIGEST = "backup.json.sha256"
DUMP = "dump"
HOME_FILES = ("token", "demo.json")
"""Files of the home that belong to the database. Without the token, the next start would create
another workspace."""
RANGE_POSITIONS = 10_000
DUMP_JOBS = 2
DUMP_COMPRESSION = "zstd:3"
LOCK_WAIT_S = 60

LOG_RANGES = f"""
SELECT number * {RANGE_POSITIONS}, n, digest::text, weighted::text
  FROM ({range_sums(RANGE_POSITIONS, "position > %(after)s AND position <= %(upto)s")}) AS sums
 ORDER BY number
"""
READ_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename"
RECORD = "INSERT INTO backups (made_at, position) VALUES (%s, %s)"
READ_WRITE = server_settings(default_transaction_read_only="off")
CHECKPOINTS = "SELECT name, version, position FROM projections ORDER BY name"


class BackupError(Exception):
    """A backup cannot be made or restored; the message is one sentence."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LogRange(_Record):
    """A range of positions of the log."""

    first: int
    events: int
    digest: str
    """Sum of the events' digests, a decimal number."""
    weighted: str
    """Sum of digest times place in the range, so that the order of the events matters."""


class TableSum(_Record):
    """Row count and digest of a read table."""

    rows: int
    digest: str


class Checkpoint(_Record):
    """The code version that wrote a projection's rows, and the position up to which it did."""

    version: str
    position: int


class Contents(_Record):
    """The content of a database."""

    migrations: list[str]
    position: int
    """The position of the last event."""
    events: int
    ranges: list[LogRange]
    projections: dict[str, Checkpoint]
    tables: dict[str, TableSum]


class FinalRange(_Record):
    """The part of the log that was final when the backup began.

    Events up to its position are all in the backup. Events after it may be missing, because their
    transactions were open.
    """

    position: int
    rest: LogRange
    """What the last range has up to this position."""


class Manifest(_Record):
    """The content of backup.json."""

    format: Literal[2] = 2
    """Format 1 had digests of some columns of the log only."""
    made_at: datetime
    final: FinalRange
    contents: Contents
    files: dict[str, str]
    """SHA-256 by path within the folder."""


def back_up(
    superuser_url: str,
    clients: Clients,
    folder: Path,
    made_at: datetime,
    home_files: Mapping[str, Path] = MappingProxyType({}),
) -> Manifest:
    """Back up a running database into a folder, which gets its name once it is complete.

    superuser_url: the superuser's URL of the database; no other role may read all of the log.
    home_files: paths of HOME_FILES by name; a missing file is skipped. Writers, readers and
    projectors continue; a migration and the swap of a rebuild wait. Raises `BackupError`,
    `FolderInUse`, `ClientError`, `psycopg.Error`, `OSError`.
    """
    with atomic_folder(folder, mode=PRIVATE_FOLDER_MODE) as unfinished:
        with _snapshot(superuser_url) as (connection, snapshot, final_position):
            clients.run(
                superuser_url,
                "pg_dump",
                "--format=directory",
                f"--jobs={DUMP_JOBS}",
                f"--compress={DUMP_COMPRESSION}",
                f"--snapshot={snapshot}",
                f"--file={unfinished / DUMP}",
            )
            contents = contents_of(connection)
            final = FinalRange(
                position=final_position, rest=_rest_up_to(connection, final_position)
            )
        for name, path in home_files.items():
            if path.exists():
                write_private(unfinished / name, path.read_text("utf-8"))
        files = {str(path): _sha256(unfinished / path) for path in _files(unfinished)}
        manifest = Manifest(made_at=made_at, final=final, contents=contents, files=files)
        write_manifest(unfinished, manifest)
    _record(superuser_url, manifest)
    return manifest


def _record(superuser_url: str, manifest: Manifest) -> None:
    """Record the backup, from which health knows its age.

    A backup is complete without its record: a database of an older version has no place for it, a
    full disk may have none, and the connection may be lost.
    """
    with (
        suppress(psycopg.Error),
        psycopg.connect(superuser_url, options=READ_WRITE) as connection,
    ):
        connection.execute(RECORD, (manifest.made_at, manifest.contents.position))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write backup.json and a file with its digest, as `sha256sum --check` reads it."""
    write_private(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    write_private(folder / MANIFEST_DIGEST, f"{_sha256(folder / MANIFEST)}  {MANIFEST}\n")


def read_backup(folder: Path) -> Manifest:
    """Check the files of a backup and return its manifest.

    Raises `BackupError` if a file is missing or changed.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
        expected = (folder / MANIFEST_DIGEST).read_text("ascii").split()[0]
    except (OSError, UnicodeDecodeError, IndexError):
        raise BackupError(f"{folder} holds no backup: its {MANIFEST} cannot be read.") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise _damaged(folder, MANIFEST)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError:
        raise BackupError(
            f"{folder} was made by another version of Annals, which this one cannot read: use that."
        ) from None
    for name, digest in manifest.files.items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            raise _damaged(folder, name)
    return manifest


def differences_from_backup(connection: Connection, manifest: Manifest) -> list[str]:
    """The ranges in which the log differs from an older backup of it, in words.

    Only what was final at the time of the backup is compared; later events are left out.
    """
    final = manifest.final
    last = final.position - final.position % RANGE_POSITIONS
    expected = {each.first: each for each in manifest.contents.ranges if each.first < last}
    found = {each.first: each for each in _log_ranges(connection, upto=last - 1)}
    expected[last], found[last] = final.rest, _rest_up_to(connection, final.position)
    return [
        f"positions {first}..{min(first + RANGE_POSITIONS - 1, final.position)}: "
        f"{_difference(expected.get(first), found.get(first))}"
        for first in sorted(expected.keys() | found.keys())
        if expected.get(first) != found.get(first)
    ]


def _difference(expected: LogRange | None, found: LogRange | None) -> str:
    before, now = (each.events if each else 0 for each in (expected, found))
    if before == now:
        return "events were altered"
    return f"{before:,} events in the backup, {now:,} in the log"


def _log_ranges(connection: Connection, upto: int) -> list[LogRange]:
    rows = connection.execute(LOG_RANGES, {"after": -1, "upto": upto})
    return [
        LogRange(first=first, events=n, digest=digest, weighted=weighted)
        for first, n, digest, weighted in rows
    ]


def _rest_up_to(connection: Connection, position: int) -> LogRange:
    """The last, incomplete range up to a position."""
    first = position - position % RANGE_POSITIONS
    parameters = {"after": first - 1, "upto": position}
    row = connection.execute(LOG_RANGES, parameters).fetchone()
    _, events, digest, weighted = row or (first, 0, "0", "0")
    return LogRange(first=first, events=events, digest=digest, weighted=weighted)


def contents_of(connection: Connection) -> Contents:
    """Read the content of the database, in a transaction of one snapshot and as a superuser."""
    position, events = log_size(connection)
    tables = [row[0] for row in connection.execute(READ_TABLES, (READ_SCHEMA,)).fetchall()]
    sums = {name: checksum(connection, READ_SCHEMA, ComparedTable(name)) for name in tables}
    return Contents(
        migrations=[row[0] for row in connection.execute(SELECT_APPLIED)],
        position=position,
        events=events,
        ranges=_log_ranges(connection, upto=position),
        projections={
            name: Checkpoint(version=version, position=checkpoint)
            for name, version, checkpoint in connection.execute(CHECKPOINTS)
        },
        tables={
            name: TableSum(rows=each.rows, digest=str(each.digest)) for name, each in sums.items()
        },
    )


@contextmanager
def one_snapshot(superuser_url: str) -> Iterator[Connection]:
    """Yield a connection in a read-only transaction of one snapshot."""
    with (
        follow_connection(superuser_url, application_name="annals-backup") as connection,
        connection.transaction(),
    ):
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield connection


@contextmanager
def _snapshot(superuser_url: str) -> Iterator[tuple[Connection, str, int]]:
    """Yield a connection with one snapshot, its name, and a position up to which it has all events.

    No migration runs meanwhile.
    """
    with follow_connection(superuser_url, application_name="annals-backup") as lock:
        if not wait_for_lock(lock, "pg_try_advisory_lock_shared", LOCK_WAIT_S):
            raise BackupError("A migration is running: back up when it is done.")
        final_position = readable_position(lock)
        with one_snapshot(superuser_url) as connection:
            (snapshot,) = _row(connection, "SELECT pg_export_snapshot()")
            yield connection, snapshot, final_position


def _row(connection: Connection, statement: str) -> tuple[Any, ...]:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row


def _files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(folder: Path, name: str) -> BackupError:
    return BackupError(f"{folder} is damaged ({name} was changed or lost): use another backup.")
