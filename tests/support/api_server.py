"""The API on a socket, with a projector and a worker in threads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import httpx
import psycopg
from fastapi import FastAPI

from api.app import create_app
from api.http.openapi.document import describe
from domain.workspace import Workspace
from eventlog.scope import Scope
from projections.engine.live.runner import ProjectionEngine
from runtime.composition import Writing, open_writing
from runtime.settings import Settings
from server.processes.projector import open_projection_engine
from server.processes.serving import make_server, open_socket
from server.processes.worker import open_worker
from tests.support.contract import Contract
from tests.support.keys import issue_first_key, issue_operator_key
from tests.support.waiting import wait_until, wait_until_projected

START_WAIT_S = 120.0
REQUEST_TIMEOUT_S = 20.0
ANSWER_WAIT_MAX_S = 10.0
"""Seconds within which a server that is reached has to answer, also beside other tests."""
BODY_MAX_BYTES = 4_096
MIN_POSITION_WAIT_MS = 2_000
CONTRACTS: dict[int, Contract] = {}
"""By the identity of their document."""


@dataclass
class ApiWorkspace:
    """A workspace behind an API, with clients that hold a key of it."""

    api: Api
    workspace_id: UUID
    clients: dict[str, httpx.Client] = field(default_factory=dict)
    """By role."""

    def client(self, role: str = "admin") -> httpx.Client:
        """Return a client with a key of this role. The key is projected."""
        if role not in self.clients:
            self.clients[role] = self.api.client(self.token(role))
        return self.clients[role]

    def token(self, role: str, **fields: Any) -> str:
        """Issue a key of this role; return its token. The key is projected."""
        issued = issue_first_key(
            str(self.api.settings.owner_url),
            self.workspace_id,
            {"name": f"{role} key", "role": role, **fields},
        )
        self.api.wait_until_projected(issued.outcome.position)
        return issued.token

    def make(self, plural: str, **fields: Any) -> httpx.Response:
        """Create an entity as admin; return the response."""
        return created(self.client().post(f"/api/{plural}", json=fields))

    def account(self, **fields: Any) -> str:
        """Create an account; return its id."""
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

    def new_workspace(self) -> ApiWorkspace:
        """Create a workspace."""
        workspace_id = uuid4()
        self.writing.commands.create(
            Scope(workspace_id), Workspace, {"name": "Office"}, entity_id=workspace_id
        )
        return ApiWorkspace(self, workspace_id)

    def operator(self) -> httpx.Client:
        """Return a client with a new operator key. The key is projected."""
        issued = issue_operator_key(str(self.settings.owner_url))
        self.wait_until_projected(issued.outcome.position)
        return self.client(issued.token)

    def client(self, token: str | None = None) -> httpx.Client:
        """Return a client with or without a token."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Without TLS there are no certificates to load, which would take longer than a test.
        client = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=REQUEST_TIMEOUT_S,
            verify=False,
            event_hooks={"response": [contract_of(self.app).check]},
        )
        self.clients.append(client)
        return client

    def close_clients(self) -> None:
        """Close the connections of all clients."""
        while self.clients:
            self.clients.pop().close()

    def wait_until_projected(self, position: int) -> None:
        """Wait until all projections have reached the position."""
        with psycopg.connect(str(self.settings.projector_url), autocommit=True) as connection:
            wait_until_projected(connection, position)


def contract_of(app: FastAPI) -> Contract:
    """Return what the document of the app promises; apps with one document share its contract."""
    document = app.openapi()
    return CONTRACTS.setdefault(id(document), Contract(document))


def created(response: httpx.Response) -> httpx.Response:
    """Assert that the response is 201 Created; return it."""
    assert response.status_code == 201, response.text
    return response


def after(response: httpx.Response) -> dict[str, str]:
    """Return the headers of a read that must contain this write."""
    return {"Annals-Min-Position": response.headers["Annals-Position"]}


@contextmanager
def running_api(owner_url: str, app_url: str, projector_url: str, **more: Any) -> Iterator[Api]:
    """Run the API, a projector and a worker while the block lasts; `more` are settings."""
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
        running = Api(url, writing, settings, app, engine)
        try:
            yield running
        finally:
            running.close_clients()
            worker.stop()
            working.join(START_WAIT_S)
            engine.stop()
            projector.join(START_WAIT_S)


@contextmanager
def openapi_generated_once() -> Iterator[None]:
    """Reuse the OpenAPI document of the first app, while the block lasts.

    It depends on the routes alone, and generating it takes most of the second that an app needs to
    start.
    """
    documents: list[dict[str, Any]] = []

    def describe_once(app: FastAPI) -> None:
        describe(app)
        if not documents:
            documents.append(app.openapi())
        app.openapi_schema = documents[0]

    with mock.patch("api.app.describe", describe_once):
        yield


@contextmanager
def serving(app: FastAPI, port: int, unread_timeout_s: float = 30.0) -> Iterator[str]:
    """Serve the app on a port while the block lasts. Yields its URL."""
    given: Settings = getattr(app.state, "settings", Settings())
    settings = given.model_copy(update={"port": port, "unread_timeout_s": unread_timeout_s})
    server = make_server(app, settings, log_config=None, timeout_graceful_shutdown=2)
    opened = open_socket(server.config, settings.unread_timeout_s)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()

    def has_started() -> bool:
        assert thread.is_alive(), "the API ended while it started: see its log"
        return server.started

    try:
        wait_until(has_started, "the API has started")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(START_WAIT_S)


def free_port() -> int:
    """Return a TCP port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_ready(url: str) -> bool:
    """Whether the API at this URL is ready to serve."""
    return _answers_ok(f"{url}/readyz")


def is_live(url: str) -> bool:
    """Whether the API at this URL answers at all."""
    return _answers_ok(f"{url}/livez")


def _answers_ok(url: str) -> bool:
    try:
        # Without TLS there are no certificates to load.
        return httpx.get(url, timeout=ANSWER_WAIT_MAX_S, verify=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
