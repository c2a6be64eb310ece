"""kill -9 of the API, the projector and PostgreSQL under load, repeatedly.

Afterwards the log holds every acknowledged write once and every other write at most once, and the
read tables match the log.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from eventlog.connections import Connection
from eventlog.reading import readable_position
from projections.engine.ledger.coverage import gaps
from projections.engine.registry import PROJECTIONS
from tests.support.killable_stack import KillableStack, issue_token
from tests.support.oracle import assert_tables_match_log, recorded_events
from tests.support.postgres_server import reachable_folder
from tests.support.waiting import wait_until, wait_until_projected

pytestmark = pytest.mark.long(seconds=15)

SEED = 9
CLIENTS = 3
KILLS = ["projector", "api", "postgres", "api", "projector", "postgres"]
WRITES_BETWEEN_KILLS = (15, 60)
"""Writes acknowledged after all processes are ready again."""
OUTAGE_MAX_S = 0.2
DATABASE = "annals"
REQUEST_TIMEOUT_S = 5.0
WAIT_MAX_S = 60.0
MERGE = {"Content-Type": "application/merge-patch+json"}


@dataclass
class ClientWrites:
    """The writes of a client: the names sent, each one unique, and those acknowledged."""

    sent: list[str] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Entity id by name of the write."""


@pytest.fixture
def stack() -> Iterator[KillableStack]:
    """All three processes, running."""
    with reachable_folder() as folder, ExitStack() as cleanup:
        stack = KillableStack(folder)
        cleanup.callback(stack.stop)
        stack.start("api")
        stack.start("projector")
        wait_until(stack.is_ready, "the API is ready")
        yield stack
        sys.stderr.write(stack.logs())


def test_acknowledged_writes_are_recorded_once_despite_kills(stack: KillableStack) -> None:
    random = Random(SEED)
    workspaces = [uuid4(), uuid4()]
    tokens = [issue_token(stack.owner_url, workspace_id) for workspace_id in workspaces]
    with psycopg.connect(stack.superuser_url, autocommit=True) as database:
        wait_until_projected(database)
    stopped = threading.Event()
    clients = [Client(stack, tokens[n % 2], n, stopped) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    for name in KILLS:
        wait_for_writes(clients, random.randint(*WRITES_BETWEEN_KILLS))
        stack.kill(name)
        time.sleep(random.uniform(0, OUTAGE_MAX_S))  # the length of the outage is part of the test
        stack.restart(name)
        wait_until(stack.is_ready, "the API is ready")
    wait_for_writes(clients, WRITES_BETWEEN_KILLS[1])
    stopped.set()
    for client in clients:
        client.join(WAIT_MAX_S)
        assert not client.is_alive()
        assert client.error is None, client.error
    with psycopg.connect(stack.superuser_url, autocommit=True) as database:
        wait_until_projected(database)
        for client in clients:
            check(database, client.writes)
        assert any(len(client.writes.sent) > len(client.writes.acknowledged) for client in clients)
        assert_tables_match_log(database)
        upto = readable_position(database)
        assert {name: gaps(database, name, upto=upto) for name in PROJECTIONS} == {
            name: [] for name in PROJECTIONS
        }


def wait_for_writes(clients: list[Client], number: int) -> None:
    """Wait until this many more writes are acknowledged, at least one per client."""
    before = [len(client.writes.acknowledged) for client in clients]

    def are_acknowledged() -> bool:
        errors = [client.error for client in clients if client.error]
        assert not errors, errors
        new = [
            len(client.writes.acknowledged) - old
            for client, old in zip(clients, before, strict=True)
        ]
        return min(new) > 0 and sum(new) >= number

    wait_until(are_acknowledged, f"{number} more writes are acknowledged")


def check(database: Connection, writes: ClientWrites) -> None:
    """Check that the log holds each acknowledged write once and each other one at most once."""
    recorded: dict[str, list[str]] = {}
    for event in recorded_events(database):
        for name in names_in(event["data"]):
            recorded.setdefault(name, []).append(str(event["stream_id"]))
    assert len(writes.acknowledged) > len(KILLS)
    for name in writes.sent:
        if name in writes.acknowledged:
            assert recorded.get(name) == [writes.acknowledged[name]]
        else:
            assert len(recorded.get(name, [])) <= 1


def names_in(data: dict[str, Any]) -> Iterator[str]:
    """Yield the names of writes in the data of an event."""
    fields = {**data.get("fields", {})}
    fields |= {field: change["after"] for field, change in data.get("changes", {}).items()}
    for name in ("company", "name", "title"):
        if name in fields:
            yield fields[name]


class Client(threading.Thread):
    """Sends one write after another; a write without an answer is not repeated."""

    def __init__(
        self, stack: KillableStack, token: str, number: int, stopped: threading.Event
    ) -> None:
        super().__init__(name=f"client-{number}")
        self.writes = ClientWrites()
        self.error: AssertionError | None = None
        self._stack = stack
        self._stopped = stopped
        self._number = number
        self._random = Random(SEED + number)
        self._accounts: list[str] = []
        self._headers = {"Authorization": f"Bearer {token}"}

    def run(self) -> None:
        try:
            # Without TLS there are no certificates to load.
            with httpx.Client(
                base_url=self._stack.url,
                headers=self._headers,
                timeout=REQUEST_TIMEOUT_S,
                verify=False,
            ) as http:
                while not self._stopped.is_set():
                    self._send_write(http)
        except AssertionError as error:
            self.error = error

    def _send_write(self, http: httpx.Client) -> None:
        name = f"{self._number}-{len(self.writes.sent)}"
        account = self._random.choice(self._accounts) if self._accounts else None
        draw = self._random.random()
        if account is None or draw < 0.3:
            request = http.build_request(
                "POST", "/api/accounts", json={"company": name, "type": "customer"}
            )
        elif draw < 0.6:
            request = http.build_request(
                "PATCH", f"/api/accounts/{account}", json={"company": name}, headers=MERGE
            )
        elif draw < 0.8:
            body = {"name": name, "accountId": account}
            request = http.build_request("POST", "/api/contacts", json=body)
        else:
            body = {"title": name, "accountId": account, "status": "todo"}
            request = http.build_request("POST", "/api/tasks", json=body)
        self.writes.sent.append(name)
        try:
            response = http.send(request)
        except httpx.TransportError:
            self._stopped.wait(0.05)
            return
        if response.is_success:
            self._record_acknowledged(request, name, response.json()["id"])
        else:
            assert response.status_code == httpx.codes.SERVICE_UNAVAILABLE, response.text
            self._stopped.wait(0.05)

    def _record_acknowledged(self, request: httpx.Request, name: str, entity_id: str) -> None:
        self.writes.acknowledged[name] = entity_id
        if request.method == "POST" and request.url.path == "/api/accounts":
            self._accounts.append(entity_id)
