"""While the disk is short of room, writes are refused, reads go on, and no process ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from eventsourcing.persistence import OperationalError

from commands.entities import EntityCommands
from domain.account import Account
from eventlog.clock import local_time
from eventlog.connections import (
    Connection,
    WritesRefused,
    raw_json,
    translated_errors,
    write_pool,
)
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from runtime import codes
from runtime.errors import as_api_error
from runtime.health_snapshot import Disk, StorageState
from server import disk
from server.disk import DiskReserve, accept_writes, free_bytes, refuses_writes
from server.postgres import embedded
from server.postgres.embedded import Cluster
from server.processes import disk_guard
from server.processes.disk_guard import DiskGuard
from tests.support.api_server import Api, ApiWorkspace, after
from tests.support.databases import Urls
from tests.support.processes import (
    projection_holders,
    running_projector,
    running_worker,
)
from tests.support.waiting import wait_until, wait_until_projected

pytestmark = pytest.mark.long(seconds=30)

MINIMUM = 1_000
ENOUGH = 2_000_000_000
ACCOUNT = {"company": "Acme", "type": "customer"}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
CSV = {"Content-Type": "text/csv"}


@dataclass
class GuardedDisk:
    """A server under guard, and the free space that the guard measures."""

    cluster: Cluster
    free: int = ENOUGH
    lines: list[str] = field(default_factory=list)
    guard: DiskGuard = field(init=False)

    def __post_init__(self) -> None:
        self.guard = DiskGuard(self.lines.append, MINIMUM, lambda _: self.free)

    def becomes(self, free: int) -> None:
        """Have the guard measure this number of free bytes."""
        self.free = free
        self.guard.check(self.cluster)


@pytest.fixture
def guarded(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedDisk]:
    """The server of this test process under guard; it accepts writes again afterwards."""
    monkeypatch.setattr(disk_guard, "CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(DiskReserve, "fill", lambda _: None)
    try:
        yield GuardedDisk(cluster)
    finally:
        accept_writes(cluster.superuser_url)


def is_refused(response: httpx.Response) -> bool:
    return response.status_code == 507


def changes_of(account_id: str, position: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Return a write at each kind of door: method, path and the rest of the request."""
    path = f"/api/accounts/{account_id}"
    return [
        ("POST", "/api/contacts", {"json": {"name": "Ada", "accountId": account_id}}),
        ("PATCH", path, {"json": {"company": "Acme 2"}}),
        ("PATCH", path, {"json": {"priority": "high"}, "headers": MERGE_PATCH}),
        ("DELETE", path, {}),
        (
            "POST",
            "/api/bulk",
            {"json": {"kind": "account", "ids": [account_id], "change": {"delete": True}}},
        ),
        ("POST", "/api/undo", {"json": {"eventPosition": position}}),
        ("POST", "/api/imports?kind=accounts", {"content": b"company\nAcme\n", "headers": CSV}),
        ("POST", "/api/keys", {"json": {"name": "k", "role": "member"}}),
        ("POST", "/api/accounts", {"json": ACCOUNT, "headers": {"Idempotency-Key": "a-1"}}),
    ]


def test_every_write_is_refused_and_every_read_is_answered(
    guarded: GuardedDisk, api: Api, api_workspace: ApiWorkspace
) -> None:
    client, operator = api_workspace.client(), api.operator()
    made = api_workspace.make("accounts", **ACCOUNT)
    account_id, position = made.json()["id"], int(made.headers["Annals-Position"])
    path, seen = f"/api/accounts/{account_id}", after(made)
    assert client.get(path, headers=seen).status_code == 200

    guarded.becomes(MINIMUM - 1)
    wait_until(lambda: is_refused(client.post("/api/accounts", json=ACCOUNT)), "writes are refused")
    for method, target, request in changes_of(account_id, position):
        refused = client.request(method, target, **request)
        problem = refused.json()
        assert (refused.status_code, problem["code"]) == (507, "E3008"), (target, refused.text)
        assert refused.headers["Retry-After"] == "30"
    for target in (
        path,
        "/api/accounts",
        "/api/accounts?search=acme",
        f"{path}?asOf={datetime.now(UTC).isoformat().replace('+00:00', 'Z')}",
        "/api/audit",
        "/api/accounts/export",
        "/api/me",
        "/livez",
        "/readyz",
        "/metrics",
    ):
        answer = client.get(target)
        assert answer.status_code == 200, (target, answer.text)
    health = operator.get("/healthz")
    assert health.status_code == 503
    assert "the database refuses writes" in health.json()["detail"]
    assert "annals_database_read_only 1.0" in operator.get("/metrics").text
    assert len(guarded.lines) == 1
    assert "Reads go on." in guarded.lines[0]

    guarded.becomes(MINIMUM)  # more than the minimum, and less than is needed to resume
    assert is_refused(client.post("/api/accounts", json=ACCOUNT))
    guarded.becomes(ENOUGH)
    wait_until(
        lambda: client.post("/api/accounts", json=ACCOUNT).status_code == 201,
        "writes are accepted",
    )
    repeated = client.post("/api/accounts", json=ACCOUNT, headers={"Idempotency-Key": "a-1"})
    assert repeated.status_code == 201
    assert client.get(path).json()["company"] == "Acme"
    wait_until(lambda: operator.get("/healthz").status_code == 200, "health is green")
    assert len(guarded.lines) == 2


def test_transaction_that_writes_is_cancelled(
    urls: Urls, guarded: GuardedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began before writes were refused, so that it could fill the rest of the disk."""
    monkeypatch.setattr(disk, "CANCEL_AFTER_S", 0.0)
    with (
        psycopg.connect(urls.superuser) as writer,
        psycopg.connect(urls.superuser) as reader,
        ThreadPoolExecutor(1) as thread,
    ):
        writer.execute("CREATE TABLE many AS SELECT 1 AS n")
        reader.execute("SELECT 1")
        guarded.becomes(0)
        writing = thread.submit(writer.execute, "SELECT pg_sleep(60)")

        def is_cancelled() -> bool:
            guarded.becomes(0)
            return writing.done()

        wait_until(is_cancelled, "the transaction is cancelled")
        assert isinstance(writing.exception(), psycopg.errors.QueryCanceled)
        assert reader.execute("SELECT 2").fetchone() == (2,)


def test_guard_of_a_restarted_server_asks_for_its_state(guarded: GuardedDisk) -> None:
    """The setting outlives the server and the guard."""
    url = guarded.cluster.superuser_url
    guarded.becomes(0)
    wait_until(lambda: refuses_writes(url), "writes are refused")
    later = GuardedDisk(guarded.cluster)
    later.becomes(ENOUGH)
    assert not refuses_writes(url)
    assert "writes are accepted" in later.lines[0]


def test_failure_of_the_guard_is_printed_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_guard, "CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(DiskReserve, "fill", lambda _: None)
    lines: list[str] = []
    fails = iter([True, True, False, True])

    def measure(_: Path) -> int:
        if next(fails):
            raise OSError(5, "Input/output error")
        return ENOUGH

    guard = DiskGuard(lines.append, MINIMUM, measure)
    for _ in range(4):
        guard.check(cluster)
    assert len(lines) == 2
    assert "Input/output error" in lines[0]


def test_guard_releases_the_reserve_if_the_setting_has_no_room(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[bool] = []
    attempts = iter([psycopg.errors.DiskFull("no room"), None])

    def refuse(_: str) -> None:
        if error := next(attempts):
            raise error

    monkeypatch.setattr(disk_guard, "refuse_writes", refuse)
    monkeypatch.setattr(DiskReserve, "release", lambda _: released.append(True))
    lines: list[str] = []
    DiskGuard(lines.append, MINIMUM, lambda _: 0).check(cluster)
    assert released == [True]
    assert "writes are refused" in lines[0]


def write_anyway(connection: Connection) -> None:
    raw_json(connection)
    connection.execute("SET default_transaction_read_only = off")


def test_processes_wait_until_there_is_room(
    urls: Urls, guarded: GuardedDisk, scope: Scope, tmp_path: Path
) -> None:
    """A projector with an event to project, and a worker, go on by themselves."""
    output = tmp_path / "projector.log"
    worker_log = tmp_path / "worker.log"
    with (
        psycopg.connect(urls.superuser, autocommit=True) as database,
        running_projector(urls, output) as projector,
        running_worker(urls, worker_log) as worker,
        write_pool(urls.app) as pool,
    ):
        commands = EntityCommands(EventLog(pool), clock=local_time, new_id=uuid4)
        wait_until_projected(database, commands.create(scope, Account, ACCOUNT).position)
        guarded.becomes(0)
        with write_pool(urls.app, configure=write_anyway) as pool_that_writes:
            log = EventLog(pool_that_writes)
            late = EntityCommands(log, clock=local_time, new_id=uuid4)
            position = late.create(scope, Account, ACCOUNT).position
        wait_until(lambda: "projecting stopped" in output.read_text("utf-8"), "it cannot project")
        guarded.becomes(ENOUGH)
        wait_until_projected(database, position)
        assert projector.process.poll() is None
        assert worker.poll() is None
        assert projection_holders(database) == {projector.process.pid}
    stopped = [each for each in projector.lines() if "projecting stopped" in each["message"]]
    assert len(stopped) == 1
    assert "Traceback" not in worker_log.read_text("utf-8")


@pytest.mark.parametrize("error", [psycopg.errors.DiskFull, psycopg.errors.ReadOnlySqlTransaction])
def test_refused_write_has_a_code_of_its_own(error: type[psycopg.Error]) -> None:
    assert as_api_error(error("no")).code == codes.WRITES_REFUSED
    with pytest.raises(WritesRefused) as raised, translated_errors():
        raise error("no")
    assert isinstance(raised.value, OperationalError)
    assert as_api_error(raised.value).code == codes.WRITES_REFUSED


# The reserve


def test_reserve_has_allocated_blocks(tmp_path: Path) -> None:
    reserve = DiskReserve(tmp_path)
    reserve.fill()
    stat = os.stat(tmp_path / disk.RESERVE_FILE)
    assert stat.st_blocks * 512 >= disk.RESERVE_BYTES == stat.st_size
    assert reserve.exists()
    reserve.release()
    assert list(tmp_path.iterdir()) == []
    reserve.release()


def test_reserve_that_has_no_room_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "_allocate", is_full)
    with pytest.raises(OSError, match="No space"):
        DiskReserve(tmp_path).fill()
    assert list(tmp_path.iterdir()) == []


def test_guard_fills_the_reserve_when_there_is_room(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[bool] = []
    monkeypatch.setattr(disk_guard, "CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(DiskReserve, "fill", lambda _: filled.append(True))
    guarded = GuardedDisk(cluster)
    guarded.becomes(MINIMUM * 2)
    assert filled == []
    guarded.becomes(MINIMUM * 2 + disk.RESERVE_BYTES)
    assert filled == [True]
    assert guarded.lines == []


@pytest.mark.parametrize(("free", "kept"), [(disk.RESERVE_BYTES - 1, False), (ENOUGH, True)])
def test_start_on_a_full_disk_releases_the_reserve(
    free: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "free_bytes", lambda _: free)
    DiskReserve(tmp_path).fill()
    (tmp_path / "data").mkdir()
    embedded._make_room(tmp_path)
    assert DiskReserve(tmp_path).exists() is kept


def test_free_space_is_measured(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0


# Warnings


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (StorageState(), []),
        (StorageState(disk=Disk(10**10, 10**9), free_warn_bytes=10**9), []),
        (
            StorageState(disk=Disk(10**10, 10**9), free_warn_bytes=2 * 10**9),
            ["only 953 MiB of disk are free"],
        ),
        (
            StorageState(has_backup=True, backup_age_s=259_200, backup_age_warn_s=172_800),
            ["the last backup is 3.0 days old"],
        ),
        (
            StorageState(has_backup=False, backup_age_s=259_200, backup_age_warn_s=172_800),
            ["there is no backup of 3.0 days of history"],
        ),
        (StorageState(backup_age_s=259_200, backup_age_warn_s=0), []),
    ],
)
def test_warnings_come_before_the_end(state: StorageState, expected: list[str]) -> None:
    assert state.remarks == expected
    assert state.alarms == []
