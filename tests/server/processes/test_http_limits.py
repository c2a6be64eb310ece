"""Limits on connections and on the heads of requests, over raw sockets and without a key."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import websockets.sync.client
from websockets.exceptions import InvalidStatus, WebSocketException

from api.app import create_app
from api.http.client_address import TrustedProxies
from runtime.settings import Settings
from server.postgres.embedded import Cluster
from server.processes.http_protocol import PATH_SHOWN_MAX_CHARS
from tests.support.api_server import free_port, is_live, running_api, serving
from tests.support.databases import Urls, fresh_database
from tests.support.processes import start_module, stop_process
from tests.support.waiting import wait_until

MIB = 1024 * 1024
ATTACK_BYTES = 101 * MIB
GROWTH_MAX_BYTES = 30 * MIB
"""Without limits the process grew by 980 MB under the same request."""
ANSWER_TIMEOUT_S = 10.0
HEAD_TIMEOUT_S = 0.5
HEAD = b"GET /livez HTTP/1.1\r\nHost: annals\r\n"
HALF_SENT = 300


@contextmanager
def limited_api(urls: Urls, **settings: Any) -> Iterator[int]:
    """Run the API with these limits; yield its port. Without a projector."""
    given = Settings(
        owner_url=urls.owner,
        app_url=urls.app,
        projector_url=urls.projector,
        port=free_port(),
        **settings,
    )
    with serving(create_app(given), given.port):
        yield given.port


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """Open a raw connection."""
    with socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S) as connection:
        yield connection


def answer(connection: socket.socket) -> str:
    """Return what the server sends until it closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            received += chunk
    return received.decode()


def send_until_closed(connection: socket.socket, data: bytes, total: int) -> int:
    """Send data again and again; return the bytes that were sent before the server closed."""
    sent = 0
    with suppress(ConnectionError):
        while sent < total:
            connection.sendall(data)
            sent += len(data)
    return sent


def status_of(text: str) -> int:
    """Return the status of an answer, 0 if there is none."""
    return int(text.split(" ", 2)[1]) if text else 0


@pytest.fixture(scope="module")
def port(urls_of_module: Urls) -> Iterator[int]:
    """The port of an API with small limits."""
    limits = {
        "http_head_max_bytes": 4_096,
        "http_headers_max": 20,
        "http_url_max_bytes": 1_024,
        "http_head_timeout_s": HEAD_TIMEOUT_S,
    }
    with limited_api(urls_of_module, **limits) as found:
        yield found


@pytest.fixture(scope="module")
def urls_of_module(cluster: Cluster, template: str) -> Iterator[Urls]:
    """A database of this module."""
    with fresh_database(cluster, template) as urls:
        yield urls


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (HEAD + b"X-Long: " + b"a" * 5_000 + b"\r\n\r\n", 431, "E4004"),
        (HEAD + b"X-Endless: " + b"a" * 5_000, 431, "E4004"),
        (HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(30)) + b"\r\n", 431, "E4004"),
        (b"GET /livez?x=" + b"a" * 1_100 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "E4005"),
        (b"GET /" + b"a" * 5_000, 414, "E4005"),
        (HEAD, 408, "E4003"),
        (b"G", 408, "E4003"),
        (b"", 0, ""),
    ],
    ids=[
        *("long header", "endless header", "many headers", "long URL", "endless URL"),
        *("half a head", "one byte", "nothing"),
    ],
)
def test_head_beyond_a_limit_is_refused_and_closed(
    request_: bytes, status: int, code: str, port: int
) -> None:
    with connected(port) as connection:
        connection.sendall(request_)
        text = answer(connection)
    assert status_of(text) == status
    assert f'"code":"{code}"' in text or not code
    assert "Connection: close" in text or not code


@pytest.mark.parametrize(
    ("url", "instance"),
    [
        (b"/livez?x=" + b"a" * 1_100, "/livez"),
        (b"/" + b"a" * 1_100, "/" + "a" * (PATH_SHOWN_MAX_CHARS - 2) + "…"),
    ],
)
def test_refusal_of_a_long_url_names_its_path(url: bytes, instance: str, port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET " + url + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        text = answer(connection)
    assert status_of(text) == 414
    assert json.loads(text.partition("\r\n\r\n")[2])["instance"] == instance


def test_request_within_the_limits_is_served_and_the_connection_kept(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=False) as client:
        for _ in range(5):
            padded = client.get("/livez", headers={"X-Padding": "a" * 3_500})
            assert padded.status_code == 200
        # A body may be larger than a head, and arrives in the same read as it.
        body = client.post("/api/accounts", content=b"x" * 60_000)
        assert body.status_code == 401


def test_slow_head_is_cut_off_on_a_kept_connection_too(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert b"200" in connection.recv(65_536)
        connection.sendall(b"GET /livez HTTP/1.1\r\nX-Slow: ")
        assert status_of(answer(connection)) == 408


def test_second_head_of_a_pipeline_has_the_same_limits(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(HEAD + b"\r\n" + HEAD + b"X-Long: " + b"a" * 9_000)
        text = answer(connection)
    assert text.startswith("HTTP/1.1 200")
    # What arrived in the same read as the first request is not counted, but has to end in time.
    assert "HTTP/1.1 431" in text or "HTTP/1.1 408" in text


def test_trailers_are_limited(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(
            b"POST /api/accounts HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        )
        send_until_closed(connection, b"".join(b"X-%d: 1\r\n" % n for n in range(30)), 50_000)
        assert status_of(answer(connection)) in (0, 401, 431)
    assert is_live(f"http://127.0.0.1:{port}")


def test_half_sent_requests_do_not_keep_others_out(urls: Urls) -> None:
    with limited_api(urls, http_head_timeout_s=HEAD_TIMEOUT_S) as port, ExitStack() as stack:
        for _ in range(HALF_SENT):
            stack.enter_context(connected(port)).sendall(HEAD)
        assert is_live(f"http://127.0.0.1:{port}")
        last = stack.enter_context(connected(port))
        last.sendall(HEAD)
        assert status_of(answer(last)) == 408
        assert is_live(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "limit", [{"http_connections_per_address_max": 12}, {"http_connections_max": 12}]
)
def test_connections_beyond_the_limit_are_refused_at_once(
    limit: dict[str, int], urls: Urls
) -> None:
    with limited_api(urls, **limit) as port:
        with ExitStack() as stack:
            held = [stack.enter_context(connected(port)) for _ in range(12)]
            held[-1].sendall(HEAD + b"\r\n")
            assert b"200" in held[-1].recv(65_536)
            refused = answer(stack.enter_context(connected(port)))
            assert status_of(refused) == 503
            assert '"code":"E4006"' in refused
            assert "Retry-After: 1" in refused
        wait_until(lambda: is_live(f"http://127.0.0.1:{port}"), "closed connections are free again")


def test_connections_of_a_trusted_proxy_have_no_limit_by_address(urls: Urls) -> None:
    limits = {"http_connections_per_address_max": 3, "trusted_proxies": "127.0.0.0/8"}
    with limited_api(urls, **limits) as port, ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(connected(port))
        assert is_live(f"http://127.0.0.1:{port}")


def test_websockets_are_counted_until_they_close(urls: Urls) -> None:
    with limited_api(urls, http_connections_per_address_max=5) as port:
        for _ in range(20):
            with pytest.raises((InvalidStatus, WebSocketException)):
                websockets.sync.client.connect(f"ws://127.0.0.1:{port}/api/changes/ws")
        wait_until(lambda: is_live(f"http://127.0.0.1:{port}"), "closed connections are free again")


def test_attack_with_large_headers_costs_little_memory(urls: Urls, tmp_path: Path) -> None:
    port = free_port()
    process = start_module(
        tmp_path / "api.log",
        *("server.cli", "serve"),
        ANNALS_OWNER_URL=urls.owner,
        ANNALS_APP_URL=urls.app,
        ANNALS_PROJECTOR_URL=urls.projector,
        ANNALS_PORT=str(port),
    )
    try:
        wait_until(lambda: is_live(f"http://127.0.0.1:{port}"), "the API answers")
        before = psutil.Process(process.pid).memory_info().rss
        header = b"X-Attack: " + b"a" * 1_000 + b"\r\n"
        for data in (header * 1_000, b"a" * MIB):
            with connected(port) as connection:
                connection.sendall(HEAD + b"X-First: ")
                assert send_until_closed(connection, data, ATTACK_BYTES) < ATTACK_BYTES
                assert is_live(f"http://127.0.0.1:{port}")
        grown = psutil.Process(process.pid).memory_info().rss - before
        assert grown < GROWTH_MAX_BYTES, f"{grown:,} bytes"
    finally:
        stop_process(process)


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client"),
    [
        ("", "203.0.113.7", "127.0.0.1"),
        ("10.0.0.1", "203.0.113.7", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("127.0.0.1,203.0.113.0/24", "198.51.100.1, 203.0.113.7", "198.51.100.1"),
        ("127.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("127.0.0.1", "<script>", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7, unknown", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
    ],
)
def test_client_is_read_from_the_right_over_trusted_proxies(
    trusted: str, forwarded: str, client: str
) -> None:
    assert TrustedProxies(trusted).client_of("127.0.0.1", [forwarded]) == client


@pytest.mark.parametrize(("trusted", "recorded"), [("", "127.0.0.1"), ("127.0.0.1", "203.0.113.7")])
def test_forwarded_address_is_recorded_from_trusted_proxies_only(
    trusted: str, recorded: str, urls: Urls
) -> None:
    with running_api(urls.owner, urls.app, urls.projector, trusted_proxies=trusted) as api:
        workspace = api.new_workspace()
        created = workspace.client().post(
            "/api/accounts",
            json={"company": "Acme", "type": "customer"},
            headers={"X-Forwarded-For": "198.51.100.1, 203.0.113.7"},
        )
        history = workspace.client().get(f"{created.headers['Location']}/history").json()
    assert [each["ip"] for each in history["items"]] == [recorded]


def test_proxies_that_are_no_networks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"proxy\.example"):
        Settings(trusted_proxies="127.0.0.1, proxy.example")
    assert not TrustedProxies("")
    assert "::ffff:127.0.0.1" in TrustedProxies("127.0.0.1")
