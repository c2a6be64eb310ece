"""kill -9 of the API, the projector and PostgreSQL in the middle of a load, and again.

Afterwards every write that was acknowledged is there, once, and the read tables are what the log
says. What was not acknowledged may be there, but not twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from commands.entities import EntityCommands
from commands.keys import issue_key
from eventlog.connections import Connection, write_pool
from eventlog.migrations import migrate
from eventlog.reading import readable_position
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.install import install
from projections.engine.ledger.coverage import gaps
from projections.engine.registry import PROJECTIONS
from readmodels import table_definitions
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY
from server.postgres.embedded import EmbeddedPostgres, prepare_database
from tests.support.api_server import free_port, is_ready
from tests.support.oracle import assert_tables_tell_history, recorded_events
from tests.support.processes import until
from tests.support.servers import reachable_folder

SEED = 9
CLIENTS = 3
KILLS = ["projector", "api", "postgres", "api", "projector", "postgres"]
PAUSE_S = (0.4, 1.2)
"""Between two kills, once everything answers again."""
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


class House:
    """Annals as three processes: PostgreSQL, API, projector. Each can be killed and revived."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._postgres = EmbeddedPostgres(folder / "home")
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._cluster = self._postgres.start()
        urls = prepare_database(self._cluster, DATABASE)
        migrate(urls.owner)
        install(urls.projector, table_definitions())
        self.app_url = urls.app
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._environment = {
            **os.environ,
            "ANNALS_OWNER_URL": urls.owner,
            "ANNALS_APP_URL": urls.app,
            "ANNALS_PROJECTOR_URL": urls.projector,
            "ANNALS_PORT": str(self._port),
            "ANNALS_PROJECTION_BATCH_SIZE": "20",
            SUPERVISOR_PID_VARIABLE: str(os.getpid()),
            "PYTHONPATH": str(REPOSITORY),
        }

    @property
    def superuser_url(self) -> str:
        """Looks at everything."""
        return self._cluster.url("postgres", DATABASE)

    def start(self, name: str) -> None:
        """Start the API or the projector."""
        command = {"api": "serve", "projector": "project"}[name]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "server.cli", command],
                env=self._environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        """kill -9."""
        if name == "postgres":
            os.kill(self._cluster.pid, signal.SIGKILL)
        else:
            self._children[name].kill()
            self._children[name].wait()

    def revive(self, name: str) -> None:
        """Start it again, where it was."""
        if name == "postgres":
            until(lambda: not self._postgres.is_running())
            port = self._cluster.port
            self._cluster = self._postgres.start()
            assert self._cluster.port == port
        else:
            self.start(name)

    def is_ready(self) -> bool:
        """Whether the API answers and reaches the database."""
        return is_ready(self.url)

    def stop(self) -> None:
        """End what is still there."""
        for child in self._children.values():
            child.kill()
            child.wait()
        self._postgres.stop()

    def said(self) -> str:
        """What the processes wrote, for whoever looks into a failure."""
        return "\n".join(path.read_text() for path in self._folder.glob("*.log"))


@pytest.fixture
def house() -> Iterator[House]:
    """All three at work."""
    with reachable_folder() as folder, ExitStack() as stack:
        house = House(folder)
        stack.callback(house.stop)
        house.start("api")
        house.start("projector")
        until(house.is_ready)
        yield house
        sys.stderr.write(house.said())


def test_whatever_is_killed_nothing_acknowledged_is_lost_or_doubled(house: House) -> None:
    random = Random(SEED)
    workspaces = [uuid4(), uuid4()]
    tokens = [issue(house.app_url, workspace_id) for workspace_id in workspaces]
    with psycopg.connect(house.superuser_url, autocommit=True) as database:
        until(lambda: is_projected(database))
    stopped = threading.Event()
    clients = [Client(house, tokens[n % 2], n, stopped) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    for name in KILLS:
        time.sleep(random.uniform(*PAUSE_S))
        house.kill(name)
        time.sleep(random.uniform(0, 0.2))
        house.revive(name)
        until(house.is_ready)
    time.sleep(PAUSE_S[1])
    stopped.set()
    for client in clients:
        client.join(WAIT_MAX_S)
        assert not client.is_alive()
        assert client.error is None, client.error
    with psycopg.connect(house.superuser_url, autocommit=True) as database:
        until(lambda: is_projected(database))
        for client in clients:
            check(database, client.deeds)
        assert any(len(client.deeds.asked) > len(client.deeds.acknowledged) for client in clients)
        assert_tables_tell_history(database)
        upto = readable_position(database)
        assert {name: gaps(database, name, upto=upto) for name in PROJECTIONS} == {
            name: [] for name in PROJECTIONS
        }


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

    def __init__(self, house: House, token: str, number: int, stopped: threading.Event) -> None:
        super().__init__(name=f"client-{number}")
        self.deeds = Deeds()
        self.error: AssertionError | None = None
        self._house = house
        self._stopped = stopped
        self._number = number
        self._random = Random(SEED + number)
        self._accounts: list[str] = []
        self._headers = {"Authorization": f"Bearer {token}"}

    def run(self) -> None:
        try:
            # Without TLS there are no certificates to load.
            with httpx.Client(
                base_url=self._house.url,
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


def issue(app_url: str, workspace_id: UUID) -> str:
    """A token for the workspace."""
    with write_pool(app_url) as pool:
        commands = EntityCommands(EventLog(pool), clock=lambda: datetime.now(UTC), new_id=uuid4)
        return issue_key(commands, Scope(workspace_id), {"name": "load", "role": "admin"}).token


def is_projected(database: Connection) -> bool:
    """Whether all projections have reached the end of the log."""
    row = database.execute(
        "SELECT min(position) >= readable_position() FROM projections"
    ).fetchone()
    return bool(row and row[0])
