"""kill -9 of the API, the projector and PostgreSQL in the middle of a load, and again.

Afterwards every write that was acknowledged is there, once, and the read tables are what the log
says. What was not acknowledged may be there, but not twice.
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
"""Acknowledged since everything answers again."""
OUTAGE_MAX_S = 0.2
DATABASE = "annals"
REQUEST_TIMEOUT_S = 5.0
WAIT_MAX_S = 60.0
MERGE = {"Content-Type": "application/merge-patch+json"}


@dataclass
class Deeds:
    """What a client asked for, each under a name of its own, and what was acknowledged."""

    asked: list[str] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Id of the thing by name of the deed."""


@pytest.fixture
def stack() -> Iterator[KillableStack]:
    """All three at work."""
    with reachable_folder() as folder, ExitStack() as cleanup:
        stack = KillableStack(folder)
        cleanup.callback(stack.stop)
        stack.start("api")
        stack.start("projector")
        wait_until(stack.is_ready, "the API is ready")
        yield stack
        sys.stderr.write(stack.logs())


def test_whatever_is_killed_nothing_acknowledged_is_lost_or_doubled(stack: KillableStack) -> None:
    random = Random(SEED)
    workspaces = [uuid4(), uuid4()]
    tokens = [issue_token(stack.app_url, workspace_id) for workspace_id in workspaces]
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
            check(database, client.deeds)
        assert any(len(client.deeds.asked) > len(client.deeds.acknowledged) for client in clients)
        assert_tables_match_log(database)
        upto = readable_position(database)
        assert {name: gaps(database, name, upto=upto) for name in PROJECTIONS} == {
            name: [] for name in PROJECTIONS
        }


def wait_for_writes(clients: list[Client], number: int) -> None:
    """Wait until this many more writes are acknowledged, at least one of each client."""
    before = [len(client.deeds.acknowledged) for client in clients]

    def are_acknowledged() -> bool:
        errors = [client.error for client in clients if client.error]
        assert not errors, errors
        new = [
            len(client.deeds.acknowledged) - old
            for client, old in zip(clients, before, strict=True)
        ]
        return min(new) > 0 and sum(new) >= number

    wait_until(are_acknowledged, f"{number} more writes are acknowledged")


def check(database: Connection, deeds: Deeds) -> None:
    """Each deed is in the log once where it was acknowledged, and at most once where not."""
    recorded: dict[str, list[str]] = {}
    for event in recorded_events(database):
        for name in names_in(event["data"]):
            recorded.setdefault(name, []).append(str(event["stream_id"]))
    assert len(deeds.acknowledged) > len(KILLS)
    for name in deeds.asked:
        if name in deeds.acknowledged:
            assert recorded.get(name) == [deeds.acknowledged[name]]
        else:
            assert len(recorded.get(name, [])) <= 1


def names_in(data: dict[str, Any]) -> Iterator[str]:
    """The names of deeds that an event tells."""
    fields = {**data.get("fields", {})}
    fields |= {field: change["after"] for field, change in data.get("changes", {}).items()}
    for name in ("company", "name", "title"):
        if name in fields:
            yield fields[name]


class Client(threading.Thread):
    """Writes as fast as it is answered, and never the same twice: who is not answered goes on."""

    def __init__(
        self, stack: KillableStack, token: str, number: int, stopped: threading.Event
    ) -> None:
        super().__init__(name=f"client-{number}")
        self.deeds = Deeds()
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
                    self._do_something(http)
        except AssertionError as error:
            self.error = error

    def _do_something(self, http: httpx.Client) -> None:
        name = f"{self._number}-{len(self.deeds.asked)}"
        account = self._random.choice(self._accounts) if self._accounts else None
        lot = self._random.random()
        if account is None or lot < 0.3:
            request = http.build_request(
                "POST", "/api/accounts", json={"company": name, "type": "customer"}
            )
        elif lot < 0.6:
            request = http.build_request(
                "PATCH", f"/api/accounts/{account}", json={"company": name}, headers=MERGE
            )
        elif lot < 0.8:
            body = {"name": name, "accountId": account}
            request = http.build_request("POST", "/api/contacts", json=body)
        else:
            body = {"title": name, "accountId": account, "status": "todo"}
            request = http.build_request("POST", "/api/tasks", json=body)
        self.deeds.asked.append(name)
        try:
            response = http.send(request)
        except httpx.TransportError:
            self._stopped.wait(0.05)
            return
        if response.is_success:
            self._acknowledged(request, name, response.json()["id"])
        else:
            assert response.status_code == httpx.codes.SERVICE_UNAVAILABLE, response.text
            self._stopped.wait(0.05)

    def _acknowledged(self, request: httpx.Request, name: str, entity_id: str) -> None:
        self.deeds.acknowledged[name] = entity_id
        if request.method == "POST" and request.url.path == "/api/accounts":
            self._accounts.append(entity_id)
