"""The allowed hosts, over raw sockets, so that the header Host is exactly what a test sends."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from api.http.limits.hosts import AllowedHosts
from server.postgres.embedded import Cluster
from tests.support.api_server import Api, running_api
from tests.support.databases import fresh_database

TIMEOUT_S = 60.0
WEBSOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture(scope="module")
def guarded(cluster: Cluster, template: str) -> Iterator[Api]:
    """An API that is served under some hosts."""
    hosts = "crm.example, *.tenants.example,[::1],plain.example:8321"
    with (
        fresh_database(cluster, template) as urls,
        running_api(urls.owner, urls.app, urls.projector, allowed_hosts=hosts) as running,
    ):
        yield running


def ask(api: Api, path: str, *hosts: str, more: str = "") -> tuple[int, Any]:
    """Send a request with these Host headers; return the status and the document."""
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    with socket.create_connection(("127.0.0.1", api.settings.port), TIMEOUT_S) as connection:
        closing = "" if more else "Connection: close\r\n"
        connection.sendall(f"GET {path} HTTP/1.1\r\n{lines}{closing}{more}\r\n".encode())
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


@pytest.mark.parametrize(
    "host",
    [
        *("crm.example", "CRM.example", "crm.example:443", "a.tenants.example"),
        *("a.b.tenants.example:80", "[::1]", "[::1]:8321", "plain.example:8321"),
    ],
)
def test_request_for_an_allowed_host_is_served(host: str, guarded: Api) -> None:
    assert ask(guarded, "/api/errors/E4021", host)[0] == 200


@pytest.mark.parametrize(
    "hosts",
    [
        ("evil.example",),
        ("crm.example.evil.example",),
        ("notcrm.example",),
        ("tenants.example",),
        ("eviltenants.example",),
        ("crm.example:x",),
        ("[::2]",),
        ("::1",),
        ("plain.example",),
        ("plain.example:80",),
        ("127.0.0.1",),
        ("",),
        (),
        ("crm.example", "evil.example"),
        ("crm.example", "crm.example"),
    ],
)
def test_request_for_another_host_is_421(hosts: tuple[str, ...], guarded: Api) -> None:
    status, document = ask(guarded, "/api/errors/E4021", *hosts)
    assert (status, document["code"]) == (421, "E4021")
    assert document["requestId"]


def test_websocket_for_another_host_is_421(guarded: Api) -> None:
    status, document = ask(guarded, "/api/realtime/ws", "evil.example", more=WEBSOCKET)
    assert (status, document["code"]) == (421, "E4021")
    assert ask(guarded, "/api/realtime/ws", "crm.example", more=WEBSOCKET)[0] == 401


def test_supervisor_reaches_the_process_by_its_address(guarded: Api) -> None:
    assert ask(guarded, "/livez", "127.0.0.1")[0] == 200
    assert ask(guarded, "/metrics", "127.0.0.1")[0] == 421


def test_by_default_every_host_is_served(api: Api) -> None:
    assert not AllowedHosts("")
    assert ask(api, "/api/errors/E4021", "anything.example")[0] == 200
