"""Backup and restore: exact during writes, verified by replay, refused when damaged."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from benchmarks.generated import generate
from eventlog.connections import follow_connection
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from replay.folders import FolderInUse
from server.cli import CommandError
from server.postgres.backup import (
    MANIFEST,
    BackupError,
    back_up,
    contents_of,
    differences_from_backup,
    one_snapshot,
    read_backup,
    write_manifest,
)
from server.postgres.clients import ClientError, Clients
from server.postgres.databases import DATABASE_NAME
from server.postgres.embedded import (
    DatabaseUrls,
    EmbeddedPostgres,
    prepare_database,
    superuser_url_of_running,
)
from server.postgres.restore import restore
from server.postgres.upgrade import upgrade
from tests.support.command_line import annals
from tests.support.postgres_server import reachable_folder
from tests.support.recorded_schemas import WORKSPACES, append, fill

MADE_AT = datetime(2026, 3, 31, tzinfo=UTC)
_seeds = itertools.count(1_000)


@dataclass(frozen=True)
class Installation:
    """A home with a running server and a filled database."""

    folder: Path
    home: Path
    urls: DatabaseUrls

    @property
    def superuser_url(self) -> str:
        return superuser_url_of_running(self.home, DATABASE_NAME)

    def back_up(self, name: str) -> Path:
        """Write a backup into a folder of this name and return the folder."""
        folder = self.folder / name
        files = {"token": self.home / "token", "demo.json": self.home / "demo.json"}
        back_up(self.superuser_url, Clients.of_home(self.home), folder, MADE_AT, files)
        return folder


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """One installation for all tests here: starting a server takes longer than most of them."""
    with reachable_folder(in_memory=True) as folder, EmbeddedPostgres(folder / "home") as cluster:
        urls = prepare_database(cluster, DATABASE_NAME)
        upgrade(urls.owner, urls.projector)
        fill(urls.app, urls.projector)
        (folder / "home" / "token").write_text("annals_secret\n", "utf-8")
        yield Installation(folder, folder / "home", urls)


@pytest.fixture(scope="module")
def backup(installation: Installation) -> Path:
    """A backup of the installation."""
    return installation.back_up("backup")


@pytest.fixture
def damaged(backup: Path, tmp_path: Path) -> Path:
    """A copy of the backup that a test damages."""
    return Path(shutil.copytree(backup, tmp_path / "damaged"))


@contextmanager
def writing(installation: Installation) -> Iterator[list[int]]:
    """Run a writer and the projector during the block; yield the positions written."""
    positions: list[int] = []
    stop = threading.Event()
    engine = ProjectionEngine(installation.urls.projector, PROJECTIONS.values())

    def write() -> None:
        events = generate(99)
        with psycopg.connect(installation.urls.app, autocommit=True) as connection:
            while not stop.is_set():
                positions.extend(
                    append(connection, WORKSPACES[0], list(itertools.islice(events, 3)))
                )

    threads = [threading.Thread(target=write), threading.Thread(target=engine.run)]
    for thread in threads:
        thread.start()
    try:
        yield positions
    finally:
        stop.set()
        engine.stop()
        for thread in threads:
            thread.join()


def test_backup_during_writes_is_one_snapshot_and_can_be_restored(
    installation: Installation,
) -> None:
    with writing(installation) as positions:
        folder = installation.back_up("while-writing")
        written_by_then = len(positions)
    manifest = read_backup(folder)
    assert manifest.contents.events < 500 + written_by_then
    home = installation.folder / "restored"
    replayed = restore(folder, home)
    assert (replayed.different, replayed.skipped) == ([], [])
    assert replayed.equal == sorted(PROJECTIONS)
    assert (home / "token").read_text("utf-8") == "annals_secret\n"
    with EmbeddedPostgres(home) as cluster:
        urls = prepare_database(cluster, DATABASE_NAME)
        with one_snapshot(superuser_url_of_running(home, DATABASE_NAME)) as connection:
            assert contents_of(connection) == manifest.contents
        # The restored database continues: positions, projections, and the ban on changing history.
        with psycopg.connect(urls.app, autocommit=True) as connection:
            new = append(connection, UUID(int=9), list(itertools.islice(generate(98), 20)))
        assert new[0] > manifest.contents.position
        ProjectionEngine(urls.projector, PROJECTIONS.values()).catch_up()
        with (
            psycopg.connect(urls.owner) as connection,
            pytest.raises(psycopg.errors.RestrictViolation),
        ):
            connection.execute("DELETE FROM events")


@pytest.mark.parametrize("fault", ["altered", "missing", "cut short", "manifest"])
def test_damaged_backup_is_refused_before_anything_is_written(
    damaged: Path, fault: str, tmp_path: Path
) -> None:
    victim = max((damaged / "dump").glob("*.dat.zst"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    if fault == "altered":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif fault == "missing":
        victim.unlink()
    elif fault == "cut short":
        victim.write_bytes(content[:-1])
    else:
        text = (damaged / MANIFEST).read_text("utf-8")
        (damaged / MANIFEST).write_text(text.replace('"rows": ', '"rows": 1'), "utf-8")
    with pytest.raises(BackupError, match="is damaged"):
        restore(damaged, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_log_that_differs_from_the_manifest_is_refused_and_removed(
    damaged: Path, installation: Installation
) -> None:
    manifest = read_backup(damaged)
    first = manifest.contents.ranges[0]
    forged = first.model_copy(update={"digest": str(int(first.digest) + 1)})
    contents = manifest.contents.model_copy(update={"ranges": [forged]})
    write_manifest(damaged, manifest.model_copy(update={"contents": contents}))
    home = installation.folder / "forged"
    with pytest.raises(BackupError, match="the log differs in the range of positions from 0"):
        restore(damaged, home)
    assert not home.exists()


def test_read_tables_that_differ_from_a_replay_are_named(installation: Installation) -> None:
    one = "id = (SELECT min(id::text)::uuid FROM read.notes)"
    change = f"UPDATE read.notes SET body = body || '!' WHERE {one}"
    undo = f"UPDATE read.notes SET body = rtrim(body, '!') WHERE {one}"
    with psycopg.connect(installation.urls.projector, autocommit=True) as connection:
        connection.execute(change.encode())
        folder = installation.back_up("forged-rows")
        connection.execute(undo.encode())
    with pytest.raises(CommandError, match=r"differ from a replay of it: notes "):
        annals("restore", str(folder), "--into", str(installation.folder / "kept"))
    assert (installation.folder / "kept" / "token").exists()


def test_backup_and_restore_overwrite_nothing(installation: Installation, backup: Path) -> None:
    with pytest.raises(FolderInUse, match="is not empty"):
        installation.back_up("backup")
    with pytest.raises(BackupError, match="is not empty"):
        restore(backup, installation.home)
    with pytest.raises(BackupError, match="holds no backup"):
        restore(installation.home, installation.folder / "nowhere")


def test_failed_backup_leaves_no_files(installation: Installation) -> None:
    clients = Clients.of_home(installation.home)
    with pytest.raises(ClientError, match="permission denied"):
        back_up(installation.urls.app, clients, installation.folder / "denied", MADE_AT)
    assert not list(installation.folder.glob("*denied*"))


def test_running_home_is_backed_up_by_command(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANNALS_HOME", str(installation.home))
    output = annals("backup", str(installation.folder / "by-command"))
    assert "events up to position" in output
    manifest = read_backup(installation.folder / "by-command")
    assert manifest.contents.events >= 500
    assert "token" in manifest.files
    answer = annals("verify", "--against", str(installation.folder / "by-command"))
    assert "contains all that was final in" in answer


@pytest.mark.parametrize(
    ("tampering", "named"),
    [
        ("UPDATE events SET metadata = '{}' WHERE position = 7", "events were altered"),
        ("UPDATE events SET recorded_at = now() WHERE position = 7", "events were altered"),
        ("DELETE FROM events WHERE position = 7", "{all} events in the backup, {less} in the log"),
        ("DELETE FROM events WHERE position > 499", "{all} events in the backup, 499 in the log"),
        ("TRUNCATE events", "{all} events in the backup, 0 in the log"),
    ],
)
def test_log_that_was_changed_since_a_backup_is_named(
    tampering: str, named: str, installation: Installation, backup: Path
) -> None:
    manifest = read_backup(backup)
    with follow_connection(installation.superuser_url, application_name="test") as connection:
        append_events_of_a_writer(installation)
        assert differences_from_backup(connection, manifest) == []
        with connection.transaction(force_rollback=True):
            connection.execute("ALTER TABLE events DISABLE TRIGGER events_are_never_changed")
            connection.execute(tampering.encode())
            found = differences_from_backup(connection, manifest)
        (fault,) = found
        assert fault.startswith("positions 0..")
        events = manifest.contents.events
        assert fault.endswith(named.format(all=f"{events:,}", less=f"{events - 1:,}"))


def test_events_that_were_not_final_at_the_backup_are_no_difference(
    installation: Installation,
) -> None:
    with psycopg.connect(installation.urls.app) as late:
        late.execute("SELECT 1")  # opens the transaction, which takes positions and commits later
        append(late, WORKSPACES[0], list(itertools.islice(generate(next(_seeds)), 3)))
        append_events_of_a_writer(installation)
        folder = installation.back_up("with-a-late-writer")
        late.commit()
    with follow_connection(installation.superuser_url, application_name="test") as connection:
        manifest = read_backup(folder)
        assert manifest.final.position < manifest.contents.position
        assert differences_from_backup(connection, manifest) == []


def append_events_of_a_writer(installation: Installation) -> None:
    """Append some events to the log."""
    with psycopg.connect(installation.urls.app, autocommit=True) as connection:
        append(connection, WORKSPACES[0], list(itertools.islice(generate(next(_seeds)), 5)))


def test_external_database_is_backed_up_as_its_superuser(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANNALS_HOME", str(tmp_path / "elsewhere"))
    for role in ("owner", "app", "projector"):
        monkeypatch.setenv(f"ANNALS_{role.upper()}_URL", getattr(installation.urls, role))
    with pytest.raises(CommandError, match="ANNALS_SUPERUSER_URL has to name a superuser"):
        annals("backup", str(tmp_path / "own"))
    url = superuser_url_of_running(installation.home, "postgres")
    monkeypatch.setenv("ANNALS_SUPERUSER_URL", url)
    annals("backup", str(tmp_path / "own"))
    assert "token" not in read_backup(tmp_path / "own").files
