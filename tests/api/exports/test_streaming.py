"""Exports as streams: consistency during writes, slow readers, readers that disconnect."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psutil
import psycopg
import pytest

from domain.account import Account
from eventlog.clock import local_time
from eventlog.connections import Connection
from eventlog.locks import EXPORT_LOCK
from eventlog.scope import Scope
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.runner import Rebuild
from projections.engine.registry import PROJECTIONS
from readmodels import exports, table_definitions
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY
from server.postgres.embedded import Cluster
from tests.support.api_server import ApiWorkspace, free_port
from tests.support.databases import Urls, fresh_database
from tests.support.keys import issue_first_key
from tests.support.oracle import recorded_events
from tests.support.processes import api_without_projector
from tests.support.reference_lists import ListRequest, ReferenceLists, comparable
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=25)

SMALL_ROWS, BIG_ROWS = 5_000, 50_000
BIG_BYTES = 35_000_000
"""Minimum size of the big export: more than the sockets up to PostgreSQL can buffer."""
GROWTH_MAX_BYTES = 16_000_000
RECEIVE_BUFFER_BYTES = 65_536
WAIT_S = 60.0
SLOW_S = 0.5
EXPORTED_ROWS = 3_000
APPENDED_ROWS = 500

# Compressible text, so that the table is small and only the export is big.
GENERATE = """
INSERT INTO read.accounts (
       workspace_id, id, company, company_folded, type, status, priority, next_action,
       contact_count, task_count, meeting_count, note_count, open_opportunity_count,
       custom_fields, created_at, updated_at, version, contact_names_folded)
SELECT %s, gen_random_uuid(), 'Company ' || i, 'company ' || i, 'customer', 'active', 'low',
       repeat('ab', 200),
       0, 0, 0, 0, 0, '{"sector": "x"}', '2026-01-01Z'::timestamptz + i * interval '1 second',
       '2026-01-01Z', 1, '{}'
  FROM generate_series(1, %s) AS i
"""
CHANGE_LAST = """
UPDATE read.accounts
   SET company = 'changed by Company 4999', company_folded = 'changed by company 4999'
 WHERE workspace_id = %s AND company = 'Company 1'
"""
CHANGE_BACK = """
UPDATE read.accounts SET company = 'Company 1', company_folded = 'company 1'
 WHERE workspace_id = %s AND company LIKE 'changed%%'
"""
DIVERGENT = {
    "by projection": ("UPDATE projections SET position = 1 WHERE name = 'members'",),
    # The state of Kafka consumers: the checkpoint is the position that all partitions reached.
    "by partition": (
        "UPDATE projections SET position = 1",
        """INSERT INTO projection_offsets
                  (projection, topic, partition, generation, epoch, next_offset, position)
           SELECT 'accounts', 't', n, 0, 0, 0, 1 + n FROM generate_series(0, 1) AS n""",
    ),
}
WAITING = f"""
SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
 WHERE d.datname = current_database() AND l.classid = {EXPORT_LOCK} AND NOT l.granted
"""
ACTIVE_EXPORTS = """
SELECT count(*) FROM pg_stat_activity
 WHERE application_name = 'annals-export' AND state <> 'idle' AND datname = current_database()
"""
END_EXPORTS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name = 'annals-export' AND state <> 'idle' AND datname = current_database()
"""


@dataclass(frozen=True)
class Exported:
    """A database without a projector, with one big and one small workspace."""

    urls: Urls
    many: str
    """A token of the workspace with `BIG_ROWS` accounts."""
    fewer: str
    """A token of the workspace with `SMALL_ROWS` accounts."""
    workspaces: tuple[UUID, UUID]


@pytest.fixture(scope="module")
def exported(cluster: Cluster, template: str) -> Iterator[Exported]:
    """Created once; tests undo their changes."""
    workspaces = (uuid4(), uuid4())
    with fresh_database(cluster, template) as urls:
        many, fewer = (issue_first_key(urls.owner, each).token for each in workspaces)
        ProjectionEngine(urls.projector, PROJECTIONS.values()).catch_up()
        with psycopg.connect(urls.superuser, autocommit=True) as connection:
            for workspace, number in zip(workspaces, (BIG_ROWS, SMALL_ROWS), strict=True):
                connection.execute(GENERATE, (workspace, number))
            connection.execute("VACUUM ANALYZE read.accounts")
        yield Exported(urls, many, fewer, workspaces)


@pytest.fixture
def superuser(exported: Exported) -> Iterator[Connection]:
    """A superuser's connection to the database."""
    with psycopg.connect(exported.urls.superuser, autocommit=True) as connection:
        yield connection


class Reader:
    """An export that a test reads block by block."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._blocks = response.iter_raw()
        self.content = b""

    @property
    def position(self) -> int:
        return int(self.response.headers["Annals-Position"])

    def read_block(self) -> None:
        """Read one more block."""
        self.content += next(self._blocks)

    def read_rest(self) -> bytes:
        """Read to the end and return all content. Raises `httpx.RemoteProtocolError` if cut off."""
        self.content += b"".join(self._blocks)
        return self.content


@contextmanager
def reading(
    url: httpx.URL,
    token: str,
    path: str = "accounts/export",
    form: str = "ndjson",
    min_position: int = 0,
) -> Iterator[Reader]:
    """Start an export over a new connection with a small receive buffer."""
    buffer = (socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    transport = httpx.HTTPTransport(socket_options=[buffer], verify=False)
    headers = {"Authorization": f"Bearer {token}", "Annals-Min-Position": str(min_position)}
    with (
        httpx.Client(base_url=url, transport=transport, timeout=WAIT_S, headers=headers) as client,
        client.stream("GET", f"/api/{path}", params={"format": form}) as response,
    ):
        assert response.status_code == 200, response.read()
        yield Reader(response)


def export_few(client: httpx.Client, token: str) -> httpx.Response:
    """Request an export of few rows, which ends at once."""
    headers = {"Authorization": f"Bearer {token}"}
    return client.get("/api/accounts/export", params={"search": "Company 4999"}, headers=headers)


def count_active_exports(superuser: Connection) -> int:
    """Return the number of exports that hold a snapshot."""
    row = superuser.execute(ACTIVE_EXPORTS).fetchone()
    assert row is not None
    return int(row[0])


def test_slow_reader_gets_the_rows_of_one_position(
    exported: Exported, superuser: Connection
) -> None:
    with api_without_projector(exported.urls) as client:
        with reading(client.base_url, exported.many) as reader:
            reader.read_block()
            superuser.execute(CHANGE_LAST, (exported.workspaces[0],))
            content = reader.read_rest()
        later = export_few(client, exported.many)
        superuser.execute(CHANGE_BACK, (exported.workspaces[0],))
    assert len(content) > BIG_BYTES
    companies = [json.loads(line)["company"] for line in content.splitlines()]
    assert companies == [f"Company {number}" for number in range(BIG_ROWS, 0, -1)]
    assert later.text.count("changed") == 1


def test_concurrent_exports_are_limited_and_a_disconnect_frees_a_slot(
    exported: Exported, superuser: Connection
) -> None:
    with api_without_projector(exported.urls, exports_max=1, exports_per_workspace_max=1) as client:
        with reading(client.base_url, exported.many) as reader:
            reader.read_block()
            assert count_active_exports(superuser) == 1
            for token, status, code in (
                (exported.many, 429, "E2081"),
                (exported.fewer, 503, "E2080"),
            ):
                refused = export_few(client, token)
                assert (refused.status_code, refused.json()["code"]) == (status, code)
                assert refused.json()["limit"] == 1
                assert refused.headers["Retry-After"] == "1"
        # The reader disconnected before the end.
        wait_until(
            lambda: export_few(client, exported.fewer).status_code == 200, "the export slot is free"
        )
        assert count_active_exports(superuser) == 0


@pytest.mark.parametrize(
    "limit", [{"export_stall_timeout_s": 1.0}, {"export_timeout_s": 5.0}], ids=["stall", "time"]
)
def test_reader_that_does_not_read_is_cut_off(
    exported: Exported, superuser: Connection, limit: dict[str, float]
) -> None:
    with api_without_projector(exported.urls, exports_max=1, **limit) as client:
        with reading(client.base_url, exported.many, form="csv") as reader:
            reader.read_block()
            wait_until(
                lambda: export_few(client, exported.fewer).status_code == 200,
                "the export slot is free",
            )
            assert count_active_exports(superuser) == 0
            with pytest.raises(httpx.RemoteProtocolError):
                reader.read_rest()
        assert export_few(client, exported.many).status_code == 200


def test_broken_export_raises_a_protocol_error(exported: Exported, superuser: Connection) -> None:
    with api_without_projector(exported.urls) as client:
        with reading(client.base_url, exported.many) as reader:
            reader.read_block()
            superuser.execute(END_EXPORTS)
            with pytest.raises(httpx.RemoteProtocolError):
                reader.read_rest()
        assert export_few(client, exported.many).status_code == 200


@pytest.mark.parametrize("divergence", ["by projection", "by partition"])
def test_tables_at_different_positions_are_503(
    exported: Exported, superuser: Connection, monkeypatch: pytest.MonkeyPatch, divergence: str
) -> None:
    monkeypatch.setattr(exports, "SNAPSHOT_WAIT_S", 0.1)
    # The only two events are the issued keys; the big workspace's key is the first.
    with api_without_projector(exported.urls) as client:
        try:
            for statement in DIVERGENT[divergence]:
                superuser.execute(statement)
            refused = export_few(client, exported.fewer)
            assert (refused.status_code, refused.json()["code"]) == (503, "E2083")
            # The other workspace has no event since, so its tables agree at the later position.
            current = export_few(client, exported.many)
            assert (current.status_code, current.headers["Annals-Position"]) == (200, "2")
            # The audit trail is read from the log.
            headers = {"Authorization": f"Bearer {exported.fewer}"}
            assert client.get("/api/audit/export", headers=headers).status_code == 200
        finally:
            superuser.execute("UPDATE projections SET position = 2")
            superuser.execute("DELETE FROM projection_offsets")
        assert export_few(client, exported.fewer).status_code == 200


def test_rebuild_waits_for_exports_but_lists_do_not_wait(
    exported: Exported, superuser: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "SNAPSHOT_WAIT_S", 0.1)
    rebuild = Rebuild(
        exported.urls.projector, {"members": table_definitions()["members"]}, workers=1
    )
    rebuilding = threading.Thread(target=rebuild.run)
    with api_without_projector(exported.urls) as client:
        with reading(client.base_url, exported.many) as reader:
            reader.read_block()
            rebuilding.start()
            wait_until(
                lambda: superuser.execute(WAITING).fetchone() is not None,
                "the swap waits for a lock",
            )
            # New exports are refused so that the rebuild can proceed; lists still work.
            assert export_few(client, exported.fewer).json()["code"] == "E2083"
            headers = {"Authorization": f"Bearer {exported.fewer}"}
            for path in ("/api/accounts", "/api/members"):
                assert client.get(path, headers=headers).status_code == 200
            assert reader.read_rest().count(b"\n") == BIG_ROWS
        rebuilding.join(WAIT_S)
        assert not rebuilding.is_alive()
        assert export_few(client, exported.fewer).status_code == 200
    states = superuser.execute("SELECT state FROM projection_rebuilds").fetchall()
    assert states == [("done",)]


def test_export_with_parked_entities_is_503(exported: Exported, superuser: Connection) -> None:
    park = """
        INSERT INTO projection_parked (projection, workspace_id, entity_id, position, events, error)
        VALUES ('contacts', %s, %s, 1, 1, 'x')"""
    with api_without_projector(exported.urls) as client:
        superuser.execute(park, (exported.workspaces[1], uuid4()))
        refused = export_few(client, exported.fewer)
        assert (refused.status_code, refused.json()["code"]) == (503, "E2084")
        assert refused.json()["parked"] == 1
        assert export_few(client, exported.many).status_code == 200
        superuser.execute("DELETE FROM projection_parked")


def test_memory_does_not_grow_with_the_rows(exported: Exported, tmp_path: Path) -> None:
    with api_process(exported.urls, tmp_path / "api.log") as (url, process):
        peaks = {}
        for token in (exported.fewer, exported.fewer, exported.many):
            with Peak(process) as peak, reading(url, token, form="csv") as reader:
                reader.read_block()
                time.sleep(SLOW_S)  # the server must not buffer rows while the client does not read
                rows = reader.read_rest().count(b"\n") - 1
            peaks[rows] = peak.rss_bytes
    assert peaks[BIG_ROWS] - peaks[SMALL_ROWS] < GROWTH_MAX_BYTES


class Peak:
    """The peak memory of a process while the block lasts."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._done = threading.Event()
        self._watching = threading.Thread(target=self._watch)
        self.rss_bytes = 0

    def __enter__(self) -> Peak:
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.rss_bytes = max(self.rss_bytes, self._process.memory_info().rss)


@contextmanager
def api_process(urls: Urls, output: Path) -> Iterator[tuple[httpx.URL, psutil.Process]]:
    """Run `annals serve` as a process while the block lasts; yield its URL and process."""
    port = free_port()
    url = httpx.URL(f"http://127.0.0.1:{port}")
    environment = {
        **os.environ,
        "ANNALS_OWNER_URL": urls.owner,
        "ANNALS_APP_URL": urls.app,
        "ANNALS_PROJECTOR_URL": urls.projector,
        "ANNALS_PORT": str(port),
        SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        "PYTHONPATH": str(REPOSITORY),
    }
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.cli", "serve"], env=environment, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: _is_live(url), "the API answers")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(WAIT_S)


def _is_live(url: httpx.URL) -> bool:
    try:
        return httpx.get(url.join("/livez"), timeout=1, verify=False).status_code == 200
    except httpx.TransportError:
        return False


class Writer(threading.Thread):
    """Creates, changes and deletes accounts and contacts until `stop` is called."""

    def __init__(self, api_workspace: ApiWorkspace, accounts: list[str]) -> None:
        super().__init__()
        self._workspace, self._accounts = api_workspace, accounts
        self._client = api_workspace.api.client(api_workspace.token("member"))
        self._done = threading.Event()
        self.writes = 0
        self.position = 0

    def run(self) -> None:
        for number in itertools.count():
            if self._done.is_set():
                return
            account = f"/api/accounts/{self._accounts[number % len(self._accounts)]}"
            for answer in (
                self._client.patch(account, json={"company": f"Changed {number}"}),
                self._client.post(
                    "/api/contacts",
                    json={"name": f"N{number}", "accountId": account.rpartition("/")[2]},
                ),
                self._client.delete(account) if number % 3 == 0 else None,
            ):
                if answer is not None and answer.is_success:
                    self.position = int(answer.headers["Annals-Position"])
                    self.writes += 1

    def has_written(self, number: int) -> bool:
        """Whether at least `number` writes succeeded."""
        return self.writes >= number

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._done.set()
        self.join()


def test_export_equals_the_state_at_its_position_during_writes(
    api_workspace: ApiWorkspace,
) -> None:
    accounts = append_accounts(api_workspace, EXPORTED_ROWS)
    writer = Writer(api_workspace, accounts)
    found: list[tuple[str, int, bytes]] = []
    url, token = httpx.URL(api_workspace.api.url), api_workspace.token("member")
    writer.start()
    try:
        for plural in ("accounts", "contacts") * 2:
            path = f"{plural}/export"
            with reading(url, token, path, min_position=writer.position) as reader:
                reader.read_block()
                written = writer.writes
                wait_until(
                    partial(writer.has_written, written + 5), "the writer has written five more"
                )
                found.append((plural, reader.position, reader.read_rest()))
    finally:
        writer.stop()
    with psycopg.connect(str(api_workspace.api.settings.owner_url), autocommit=True) as connection:
        events = recorded_events(connection, [api_workspace.workspace_id])
    assert len({position for _, position, _ in found}) == len(found), (
        "the writer wrote between the exports"
    )
    for plural, position, content in found:
        assert position < writer.position
        reference = ReferenceLists(
            [e for e in events if e["position"] <= position], api_workspace.workspace_id
        )
        items = [comparable(json.loads(line)) for line in content.splitlines()]
        assert items == reference.items(ListRequest(plural))


def append_accounts(api_workspace: ApiWorkspace, number: int) -> list[str]:
    """Append `number` accounts in batches, wait for the projections, and return the ids."""
    scope, log = Scope(api_workspace.workspace_id), api_workspace.api.writing.log
    custom = {"filler": "x" * 1_500}
    entities = [
        Account.create(
            uuid4(),
            api_workspace.workspace_id,
            {"company": f"C{n}", "type": "partner", "customFields": custom},
            at=local_time(),
        )
        for n in range(number)
    ]
    position: int | None = 0
    for start in range(0, number, APPENDED_ROWS):
        with log.scoped(scope):
            position = log.append(*entities[start : start + APPENDED_ROWS])
    assert position is not None
    api_workspace.api.wait_until_projected(position)
    return [str(each.id) for each in entities]
