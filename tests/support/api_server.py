"""The API as its clients meet it: uvicorn on a socket, with projector and worker beside it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from commands.keys import issue_key
from domain.workspace import Workspace
from eventlog.scope import Scope
from projections.engine.live.runner import ProjectionEngine
from runtime.composition import Writing, open_writing
from runtime.settings import Settings
from server.processes.projector import open_projection_engine
from server.processes.serving import make_server, open_socket
from server.processes.worker import open_worker

START_WAIT_S = 120.0
REQUEST_TIMEOUT_S = 20.0
BODY_MAX_BYTES = 4_096
MIN_POSITION_WAIT_MS = 2_000


@dataclass
class Office:
    """A workspace, and clients that hold a key of it, by role."""

    api: Api
    workspace_id: UUID
    clients: dict[str, httpx.Client] = field(default_factory=dict)

    def client(self, role: str = "admin") -> httpx.Client:
        """A client with a key of this role; the key works already."""
        if role not in self.clients:
            self.clients[role] = self.api.client(self.token(role))
        return self.clients[role]

    def token(self, role: str, **fields: Any) -> str:
        """A token of a new key of this role."""
        issued = issue_key(
            self.api.writing.commands,
            Scope(self.workspace_id),
            {"name": f"{role} key", "role": role, **fields},
        )
        self.api.until_projected(issued.outcome.position)
        return issued.token

    def make(self, plural: str, **fields: Any) -> httpx.Response:
        """Create one, as admin."""
        return created(self.client().post(f"/api/{plural}", json=fields))

    def account(self, **fields: Any) -> str:
        """The id of a new account."""
        given = {"company": "Acme", "type": "customer", **fields}
        return str(self.make("accounts", **given).json()["id"])


@dataclass
class Api:
    """A running API."""

    url: str
    writing: Writing
    settings: Settings
    app: FastAPI
    engine: ProjectionEngine
    clients: list[httpx.Client] = field(default_factory=list)

    def office(self) -> Office:
        """A new workspace."""
        workspace_id = uuid4()
        self.writing.commands.create(
            Scope(workspace_id), Workspace, {"name": "Office"}, entity_id=workspace_id
        )
        return Office(self, workspace_id)

    def client(self, token: str | None = None) -> httpx.Client:
        """A client, with a token or without."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Without TLS there are no certificates to load, which would take longer than a test.
        client = httpx.Client(
            base_url=self.url, headers=headers, timeout=REQUEST_TIMEOUT_S, verify=False
        )
        self.clients.append(client)
        return client

    def close_clients(self) -> None:
        """Close the connections of all clients so far."""
        while self.clients:
            self.clients.pop().close()

    def until_projected(self, position: int) -> None:
        """Return when all projections reached the position."""
        deadline = time.monotonic() + START_WAIT_S
        with psycopg.connect(str(self.settings.projector_url), autocommit=True) as connection:
            while time.monotonic() < deadline:
                row = connection.execute("SELECT min(position) FROM projections").fetchone()
                if row is not None and row[0] >= position:
                    return
                time.sleep(0.005)
        raise TimeoutError(f"position {position} is not projected")


def created(response: httpx.Response) -> httpx.Response:
    """The response, which says that something was created."""
    assert response.status_code == 201, response.text
    return response


def after(response: httpx.Response) -> dict[str, str]:
    """Headers of a read that has to contain what this write did."""
    return {"Annals-Min-Position": response.headers["Annals-Position"]}


@contextmanager
def running_api(owner_url: str, app_url: str, projector_url: str, **more: Any) -> Iterator[Api]:
    """The API, a projector and a worker, while the block lasts; `more` are settings."""
    usual = {
        "port": free_port(),
        "body_max_bytes": BODY_MAX_BYTES,
        "min_position_wait_ms": MIN_POSITION_WAIT_MS,
        "body_timeout_s": 1.0,
    }
    settings = Settings(
        owner_url=owner_url, app_url=app_url, projector_url=projector_url, **{**usual, **more}
    )
    app, engine = create_app(settings), open_projection_engine(settings)
    projector = threading.Thread(target=engine.run)
    with (
        open_writing(settings) as writing,
        serving(app, settings.port, settings.unread_timeout_s) as url,
    ):
        projector.start()
        worker = open_worker(settings, writing)
        working = threading.Thread(target=worker.run)
        working.start()
        api = Api(url, writing, settings, app, engine)
        try:
            yield api
        finally:
            api.close_clients()
            worker.stop()
            working.join(START_WAIT_S)
            engine.stop()
            projector.join(START_WAIT_S)


@contextmanager
def serving(app: FastAPI, port: int, unread_timeout_s: float = 30.0) -> Iterator[str]:
    """The app on a socket, for as long as the block lasts; gives its URL."""
    settings = Settings(port=port, unread_timeout_s=unread_timeout_s)
    server = make_server(app, settings, log_config=None, timeout_graceful_shutdown=2)
    opened = open_socket(server.config, settings.unread_timeout_s)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        _until_started(server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(START_WAIT_S)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_started(server: uvicorn.Server) -> None:
    deadline = time.monotonic() + START_WAIT_S
    while not server.started:
        if time.monotonic() > deadline:
            raise TimeoutError("the API does not start")
        time.sleep(0.01)


def is_ready(url: str) -> bool:
    """Whether the API there answers and reaches the database."""
    try:
        # Without TLS there are no certificates to load.
        return httpx.get(f"{url}/readyz", timeout=1, verify=False).status_code == 200
    except httpx.TransportError:
        return False
