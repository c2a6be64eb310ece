"""The upgrade of a projection as an operator does it, with writers over HTTP: no row is mixed.

The new code is a copy of the packages in which accounts count all tasks, also those that are done.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from eventlog.connections import Connection
from projections.engine.registry import PROJECTIONS, versions
from readmodels import table_definitions
from runtime.settings import REPOSITORY
from tests.support.databases import Urls
from tests.support.keys import issue_first_key
from tests.support.oracle import assert_tables_match_log
from tests.support.processes import Projector, api_without_projector, running_projector
from tests.support.waiting import wait_until, wait_until_projected

pytestmark = pytest.mark.long(seconds=35)

PACKAGES = ("api", "commands", "domain", "eventlog", "projections", "readmodels", "replay")
SHARED = ("runtime", "server")
WRITERS = 2
ROUNDS = 8
OLD_RULE = 'Counted("task", "task_count", unless=("status", frozenset({"done"})))'
NEW_RULE = 'Counted("task", "task_count")'
LARGEST_COUNT = "SELECT min(task_count), max(task_count) FROM {schema}.accounts"
OLD_COUNT, NEW_COUNT = 1, 2
"""The number of tasks of an account by the old rule and by the new one."""


@pytest.fixture
def new_code(tmp_path: Path) -> Path:
    """A copy of the packages with another rule for the counter of tasks."""
    target = tmp_path / "new"
    for package in (*PACKAGES, *SHARED):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / package, target / package, ignore=ignored)
    accounts = target / "projections" / "accounts.py"
    text = accounts.read_text("utf-8")
    assert OLD_RULE in text
    accounts.write_text(text.replace(OLD_RULE, NEW_RULE), "utf-8")
    return target


@dataclass
class Writers:
    """Threads that create accounts with a task that is open and one that is done."""

    client: httpx.Client
    rounds: int = 0
    faults: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def write(self) -> None:
        """Write until stopped."""
        while not self.stopped.is_set():
            account = self._post("accounts", {"company": "Acme", "type": "customer"})
            for status in ("todo", "done"):
                self._post("tasks", {"title": "x", "status": status, "accountId": account})
            self.rounds += 1

    def _post(self, path: str, body: dict[str, str]) -> str:
        answer = self.client.post(f"/api/{path}", json=body)
        if answer.status_code != 201:
            self.faults.append(answer.text)
            return ""
        return str(answer.json()["id"])

    def wait_for_rounds(self) -> None:
        """Wait until the writers have done some more rounds."""
        target = self.rounds + ROUNDS
        wait_until(lambda: self.rounds >= target, "the writers go on")


@contextmanager
def running_writers(urls: Urls, database: Connection, workspace: UUID) -> Iterator[Writers]:
    """Write over HTTP while the block lasts."""
    with api_without_projector(urls) as client:
        key = issue_first_key(urls.owner, workspace, {"name": "writer", "role": "admin"})
        wait_until_projected(database, key.outcome.position)
        client.headers["Authorization"] = f"Bearer {key.token}"
        writers = Writers(client)
        threads = [threading.Thread(target=writers.write) for _ in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            yield writers
        finally:
            writers.stopped.set()
            for thread in threads:
                thread.join()


def annals(urls: Urls, code: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of this code on the database."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "server.cli", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(code),
            "ANNALS_OWNER_URL": urls.owner,
            "ANNALS_APP_URL": urls.app,
            "ANNALS_PROJECTOR_URL": urls.projector,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def holder(database: Connection) -> int:
    """The id of the process that works on accounts; 0 if none does."""
    row = database.execute("SELECT holder FROM projections WHERE name = 'accounts'").fetchone()
    return int(row[0].rpartition(":")[2]) if row and row[0] else 0


def counts(database: Connection, schema: str = "read") -> tuple[int, int]:
    """The least and the largest number of tasks of an account."""
    row = database.execute(LARGEST_COUNT.format(schema=schema).encode()).fetchone()
    assert row is not None
    return row


@contextmanager
def stopped_at_the_end(projector: Projector) -> Iterator[Projector]:
    """Stop the projector at the end of the block."""
    try:
        yield projector
    finally:
        projector.stop()


def test_upgrade_and_rollback_under_load_mix_no_rows(
    urls: Urls, database: Connection, new_code: Path, tmp_path: Path, workspace: UUID
) -> None:
    old = versions(table_definitions())["accounts"]
    with (
        running_projector(urls, tmp_path / "old.log") as old_projector,
        running_writers(urls, database, workspace) as writers,
    ):
        writers.wait_for_rounds()
        new_projector = Projector(urls, tmp_path / "new.log", PYTHONPATH=str(new_code))
        try:
            wait_until(new_projector.has_started, "the new projector has started")
            writers.wait_for_rounds()
            assert holder(database) == old_projector.process.pid

            rebuilt = annals(urls, new_code, "rebuild", "accounts")
            assert rebuilt.returncode == 0, rebuilt.stderr
            wait_until(
                lambda: holder(database) == new_projector.process.pid, "the new code takes over"
            )
            writers.wait_for_rounds()
            verified = annals(urls, new_code, "verify", "--rows")
            assert verified.returncode == 0, verified.stderr + verified.stdout
            assert counts(database)[1] == NEW_COUNT
            assert counts(database, "read_previous_accounts")[1] == OLD_COUNT

            refused = annals(urls, new_code, "rebuild", "accounts", "--rollback")
            assert refused.returncode != 0
            assert f"made by version {old}" in refused.stderr
            back = annals(urls, REPOSITORY, "rebuild", "accounts", "--rollback")
            assert back.returncode == 0, back.stderr
            wait_until(
                lambda: holder(database) == old_projector.process.pid, "the old code takes over"
            )
            writers.wait_for_rounds()
            verified = annals(urls, REPOSITORY, "verify", "--rows")
            assert verified.returncode == 0, verified.stderr + verified.stdout
        finally:
            new_projector.stop()
        writers.stopped.set()
    assert writers.faults == []
    with running_projector(urls, tmp_path / "last.log"):
        wait_until_projected(database)
    assert_tables_match_log(database)
    assert counts(database)[1] == OLD_COUNT


def test_new_code_alone_waits_for_its_rebuild_and_is_named_by_the_command_line(
    urls: Urls, database: Connection, new_code: Path, tmp_path: Path, workspace: UUID
) -> None:
    with running_projector(urls, tmp_path / "old.log"):
        wait_until_projected(database)
    key = issue_first_key(urls.owner, workspace, {"name": "a", "role": "admin"})
    assert key.outcome.position
    projector = Projector(urls, tmp_path / "new.log", PYTHONPATH=str(new_code))
    with stopped_at_the_end(projector):
        wait_until(lambda: "made by version" in log_of(projector), "the projector says why")
        others = [name for name in PROJECTIONS if name != "accounts"]
        behind = "SELECT count(*) FROM projections WHERE name = ANY(%s) AND position < %s"
        wait_until(
            lambda: database.execute(behind, (others, key.outcome.position)).fetchone() == (0,),
            "the other projections go on",
        )
        refused = annals(urls, new_code, "keys", "list", "--workspace", str(workspace))
        assert "made by other code: accounts" in refused.stderr


def test_changed_projections_are_rebuilt_by_setting(
    urls: Urls, database: Connection, new_code: Path, tmp_path: Path, workspace: UUID
) -> None:
    with running_projector(urls, tmp_path / "old.log"):
        with running_writers(urls, database, workspace) as writers:
            writers.wait_for_rounds()
        wait_until_projected(database)
    assert counts(database) == (OLD_COUNT, OLD_COUNT)
    projector = Projector(
        urls, tmp_path / "new.log", PYTHONPATH=str(new_code), ANNALS_REBUILD_CHANGED="true"
    )
    with stopped_at_the_end(projector):
        rebuilt = (NEW_COUNT, NEW_COUNT)
        wait_until(lambda: counts(database) == rebuilt, "the projection is rebuilt")
        wait_until(lambda: has_ended(database), "the job has ended")
    asked = database.execute("SELECT projection, state, requested_by FROM projection_rebuilds")
    assert asked.fetchall() == [("accounts", "done", "ANNALS_REBUILD_CHANGED")]


def has_ended(database: Connection) -> bool:
    """Whether the latest job on a projection has ended."""
    found = database.execute("SELECT FROM projection_rebuilds WHERE ended_at IS NULL").fetchall()
    return found == []


def log_of(projector: Projector) -> str:
    """What the projector has logged."""
    return " ".join(line["message"] for line in projector.lines())
