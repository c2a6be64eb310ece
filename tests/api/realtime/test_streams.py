"""The lifecycle of streams: heartbeats, limits, keys, slow clients, shutdown, a lost reader."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from replay.facts import FactPage, read_news
from server.postgres.embedded import Cluster
from tests.support.api_server import Api, ApiWorkspace, after, running_api
from tests.support.databases import Urls, fresh_database
from tests.support.realtime_client import (
    REALTIME_PATH,
    RECEIVE_TIMEOUT_S,
    StreamEvent,
    append_notes,
    open_stream,
    open_websocket,
    parsed,
    websocket_events,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=10)

QUEUE_MAX = 50
PER_KEY_MAX = 3
SUBSCRIBERS_MAX = 5
SHORT_LIMITS: dict[str, Any] = {
    "realtime_heartbeat_s": 0.1,
    "realtime_key_check_s": 0.1,
    "realtime_queue_max": QUEUE_MAX,
    "realtime_subscribers_per_key_max": PER_KEY_MAX,
    "realtime_subscribers_max": SUBSCRIBERS_MAX,
}
BODY_CHARS = 8_000
FLOOD_MAX = 5_000
"""Maximum number of notes of that size: far more than the kernel buffers for a client."""


@pytest.fixture(scope="module")
def urls(cluster: Cluster, template: str) -> Iterator[Urls]:
    """A database for this module."""
    with fresh_database(cluster, template) as urls:
        yield urls


@pytest.fixture(scope="module")
def api(urls: Urls) -> Iterator[Api]:
    """An API with short timeouts and low limits."""
    with running_api(urls.owner, urls.app, urls.projector, **SHORT_LIMITS) as running:
        yield running


@pytest.fixture
def api_workspace(api: Api) -> ApiWorkspace:
    """A new workspace whose admin has a key."""
    api_workspace = api.new_workspace()
    api_workspace.client()
    return api_workspace


def statistics(api: Api) -> dict[str, int]:
    """Return the counters of the hub."""
    return dict(api.app.state.services.hub.statistics())


def test_heartbeat_advances_the_position_past_filtered_events(api_workspace: ApiWorkspace) -> None:
    with open_stream(api_workspace.client(), kinds="contact") as stream:
        stream.next("open")
        position = int(
            api_workspace.make("accounts", company="A", type="customer").headers["Annals-Position"]
        )
        while (stream.next("heartbeat").id or 0) < position:
            pass
    with open_websocket(
        api_workspace.api, api_workspace.token("member"), "kinds=contact"
    ) as connection:
        received = websocket_events(connection)
        assert (received.next("heartbeat").id or 0) >= position


def test_ready_is_sent_once_the_tables_have_the_event(
    api_workspace: ApiWorkspace, urls: Urls
) -> None:
    client = api_workspace.client()
    with open_stream(client, follow="facts,ready", kinds="account") as stream:
        opened = stream.next("open")
        assert stream.next("ready").position == opened.position
        with psycopg.connect(urls.superuser) as blocker:
            blocker.execute("LOCK TABLE read.accounts IN ACCESS EXCLUSIVE MODE")
            made = api_workspace.make("accounts", company="A", type="customer")
            fact = stream.next()
            assert not is_reached(urls, fact.position)
            blocker.rollback()
        ready = stream.next("ready")
        shown = client.get(f"/api/accounts/{made.json()['id']}")
    assert shown.status_code == 200, "readable without waiting for a position"
    assert ready.data == {
        "position": fact.position,
        "kind": "account",
        "entityId": fact.data["entityId"],
        "accountId": None,
    }
    assert ready.id is None, "only facts have ids to resume from"


def is_reached(urls: Urls, position: int) -> bool:
    """Whether the read tables of accounts have reached the position."""
    with psycopg.connect(urls.superuser) as connection:
        row = connection.execute("SELECT position FROM projections WHERE name = 'accounts'")
        return bool(row.fetchall()[0][0] >= position)


def test_stream_of_ready_alone_can_be_resumed(api_workspace: ApiWorkspace) -> None:
    with open_stream(api_workspace.client(), follow="ready", kinds="account") as stream:
        stream.next("open")
        stream.next("ready")
        api_workspace.account()
        first = stream.next("ready")
        assert first.id == first.position
    made = api_workspace.make("accounts", company="B", type="customer")
    api_workspace.client().get("/api/accounts", headers=after(made))
    with open_stream(api_workspace.client(), first.id, follow="ready", kinds="account") as stream:
        second = stream.next("ready")
        assert second.data["kind"] == "account"
        third = api_workspace.account()
        assert stream.next("ready").data["entityId"] == third
    assert (first.id or 0) < second.position


def test_ready_is_sent_if_the_read_tables_have_the_event_before_the_log_reader(
    api_workspace: ApiWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_released = threading.Event()

    async def read_late(*arguments: Any) -> FactPage:
        page = await read_news(*arguments)
        if page.facts:
            await asyncio.to_thread(is_released.wait)
        return page

    client = api_workspace.client()
    with open_stream(client, follow="ready", kinds="account") as stream:
        stream.next("open")
        stream.next("ready")
        monkeypatch.setattr("api.realtime.reader.read_news", read_late)
        try:
            made = api_workspace.make("accounts", company="A", type="customer")
            assert client.get("/api/accounts", headers=after(made)).status_code == 200
        finally:
            is_released.set()
        assert stream.next("ready").data["entityId"] == made.json()["id"]


def test_lagging_tables_cut_no_subscriber_off(api_workspace: ApiWorkspace, urls: Urls) -> None:
    with open_stream(api_workspace.client(), follow="facts,ready", kinds="note") as stream:
        stream.next("open")
        stream.next("ready")
        with psycopg.connect(urls.superuser) as blocker:
            blocker.execute("LOCK TABLE read.notes IN ACCESS EXCLUSIVE MODE")
            made: list[int] = []
            for _ in range(3):
                made += append_notes(api_workspace, QUEUE_MAX // 2)
                assert [received.id for received in stream.take(QUEUE_MAX // 2)] == made[
                    -QUEUE_MAX // 2 :
                ]
            blocker.rollback()
        positions = [stream.next("ready").position]
        while positions[-1] < made[-1]:
            positions.append(stream.next("ready").position)
    assert len(positions) <= QUEUE_MAX
    assert positions == sorted(positions)


def test_subscribers_per_key_and_per_process_are_limited(api_workspace: ApiWorkspace) -> None:
    wait_until(
        lambda: statistics(api_workspace.api)["subscribers"] == 0, "all subscribers are gone"
    )
    tokens = [api_workspace.token("member") for _ in range(3)]
    with ExitStack() as held:

        def follow(token: str) -> None:
            websocket_events(held.enter_context(open_websocket(api_workspace.api, token))).next(
                "open"
            )

        for _ in range(PER_KEY_MAX):
            follow(tokens[0])
        refused = api_workspace.api.client(tokens[0]).get(REALTIME_PATH)
        assert (refused.status_code, refused.json()["code"]) == (429, "E2112")
        assert refused.json()["max"] == PER_KEY_MAX
        assert refused.headers["Retry-After"]
        for _ in range(SUBSCRIBERS_MAX - PER_KEY_MAX):
            follow(tokens[1])
        refused = api_workspace.api.client(tokens[2]).get(REALTIME_PATH)
        assert (refused.status_code, refused.json()["code"]) == (503, "E3010")
        shown = api_workspace.api.client().get("/metrics").text
        assert f"annals_realtime_subscribers {SUBSCRIBERS_MAX}.0" in shown
    wait_until(
        lambda: statistics(api_workspace.api)["subscribers"] == 0, "all subscribers are gone"
    )


def test_revoked_key_ends_its_streams(api_workspace: ApiWorkspace) -> None:
    token, other = api_workspace.token("member"), api_workspace.token("member")
    key_id = UUID(token.split("_")[1])
    with (
        open_stream(api_workspace.api.client(token)) as stream,
        open_websocket(api_workspace.api, token) as connection,
        open_stream(api_workspace.api.client(other), kinds="account") as other_stream,
    ):
        stream.next("open")
        received = websocket_events(connection)
        received.next("open")
        other_stream.next("open")
        assert api_workspace.client().delete(f"/api/keys/{key_id}").status_code == 204
        assert [each.data for each in stream.rest()] == [{"reason": "key"}]
        assert received.next("end").data == {"reason": "key"}
        with pytest.raises(ConnectionClosedError) as closed:
            received.next()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        account = api_workspace.account()
        assert other_stream.next().data["entityId"] == account


def test_expired_key_ends_its_streams(api_workspace: ApiWorkspace) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    token = api_workspace.token("member", expiresAt=soon.isoformat())
    with open_stream(api_workspace.api.client(token)) as stream:
        stream.next("open")
        assert [each.data for each in stream.rest()] == [{"reason": "key"}]


class SlowClient:
    """A client that requests a stream but reads nothing before `read_all` is called."""

    def __init__(self, api_workspace: ApiWorkspace, token: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self._socket.settimeout(RECEIVE_TIMEOUT_S)
        self._socket.connect(("127.0.0.1", api_workspace.api.settings.port))
        head = f"Host: annals\r\nAuthorization: Bearer {token}"
        self._socket.sendall(f"GET {REALTIME_PATH}?kinds=note HTTP/1.1\r\n{head}\r\n\r\n".encode())

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def read_all(self) -> list[StreamEvent]:
        """Read and return all events up to the end of the answer."""
        with self._socket.makefile("r", encoding="utf-8", newline="\n") as lines:
            return list(parsed(self._body(lines)))

    @staticmethod
    def _body(lines: Iterable[str]) -> Iterator[str]:
        """Yield the lines of events. HTTP's chunk headers are skipped: they end with CRLF."""
        for line in lines:
            if line == "0\r\n":
                return
            if not line.endswith("\r\n"):
                yield line.rstrip("\n")


@contextmanager
def cut_off_client(api_workspace: ApiWorkspace, token: str) -> Iterator[SlowClient]:
    """A client that follows notes, reads nothing, and was cut off because its queue is full."""
    before = statistics(api_workspace.api)
    with open_stream(api_workspace.api.client(token), kinds="note") as other:
        other.next("open")
        slow_client = SlowClient(api_workspace, token)
        try:
            wait_until(
                lambda: statistics(api_workspace.api)["subscribers"] == before["subscribers"] + 2,
                "two more subscribers are connected",
            )
            made = 0
            while statistics(api_workspace.api)["cut_off"] == before["cut_off"]:
                # The other client receives all notes, although the slow one is cut off.
                positions = append_notes(api_workspace, QUEUE_MAX // 2, "x" * BODY_CHARS)
                assert [each.id for each in other.take(len(positions))] == positions
                made += len(positions)
                assert made < FLOOD_MAX
            yield slow_client
        finally:
            slow_client.close()


def test_slow_client_is_cut_off_and_resumes_without_a_gap(
    api_workspace: ApiWorkspace, urls: Urls
) -> None:
    token = api_workspace.token("member")
    with cut_off_client(api_workspace, token) as slow_client:
        received = slow_client.read_all()
    facts = [each.id for each in received if each.event == "fact"]
    made = positions_of(urls, api_workspace, "note.created")
    assert received[-1].event == "end"
    assert received[-1].data == {"reason": "slow"}
    assert facts == made[: len(facts)]
    assert len(facts) < len(made)
    with open_stream(api_workspace.api.client(token), facts[-1], kinds="note") as stream:
        rest = stream.take(len(made) - len(facts))
    assert [*facts, *(each.id for each in rest)] == made


def positions_of(urls: Urls, api_workspace: ApiWorkspace, topic: str) -> list[int | None]:
    """Return the positions of the events of this topic, in order."""
    with psycopg.connect(urls.superuser) as connection:
        rows = connection.execute(
            "SELECT position FROM events WHERE workspace_id = %s AND topic = %s ORDER BY position",
            (api_workspace.workspace_id, topic),
        )
        return [row[0] for row in rows]


def test_client_that_reads_nothing_is_disconnected(urls: Urls) -> None:
    # Longer than a loaded machine needs to fill the client's queue: it must be cut off first.
    settings = {**SHORT_LIMITS, "unread_timeout_s": 10.0}
    with running_api(urls.owner, urls.app, urls.projector, **settings) as api:
        api_workspace = api.new_workspace()
        with cut_off_client(api_workspace, api_workspace.token("member")):
            wait_until(
                lambda: statistics(api)["subscribers"] == 1, "one subscriber is connected"
            )  # the one that reads
            assert statistics(api)["cut_off"] == 1


def test_reader_loses_no_event_with_its_database_connection(
    api_workspace: ApiWorkspace, urls: Urls
) -> None:
    with open_stream(api_workspace.client(), kinds="account") as stream:
        stream.next("open")
        made = []
        for _ in range(3):
            made.append(api_workspace.account())
            terminate_reader(urls)
            made.append(api_workspace.account())
        assert [each.data["entityId"] for each in stream.take(len(made))] == made


def terminate_reader(urls: Urls) -> None:
    """Have PostgreSQL close the connection that reads the log."""
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'annals-realtime' AND datname = current_database()"
        )


def test_reset_of_the_log_ends_streams(api_workspace: ApiWorkspace, urls: Urls) -> None:
    with (
        open_stream(api_workspace.client()) as stream,
        psycopg.connect(urls.superuser, autocommit=True) as connection,
    ):
        stream.next("open")
        api_workspace.account()
        last = stream.next().id
        connection.execute("SELECT setval('events_position_seq', 1)")
        try:
            terminate_reader(urls)
            assert [each.data for each in stream.rest()] == [{"reason": "reset"}]
        finally:
            connection.execute("SELECT setval('events_position_seq', %s)", (last,))


def test_shutdown_ends_streams(urls: Urls) -> None:
    with ThreadPoolExecutor(2) as followers:
        with running_api(urls.owner, urls.app, urls.projector) as api:
            token = api.new_workspace().token("member")
            by_events = followers.submit(follow_to_the_end, api, token)
            by_socket = followers.submit(follow_websocket_to_the_end, api, token)
            wait_until(lambda: statistics(api)["subscribers"] == 2, "two subscribers are connected")
        # The server has stopped here without waiting for its shutdown timeout.
        assert by_events.result(RECEIVE_TIMEOUT_S).data == {"reason": "shutdown"}
        assert by_socket.result(RECEIVE_TIMEOUT_S) == 1012


def follow_to_the_end(api: Api, token: str) -> StreamEvent:
    """Follow the stream until it ends, and return the last event."""
    headers = {"Authorization": f"Bearer {token}"}
    with (
        httpx.Client(base_url=api.url, headers=headers, verify=False) as client,
        open_stream(client) as stream,
    ):
        return stream.rest()[-1]


def follow_websocket_to_the_end(api: Api, token: str) -> int:
    """Follow until the WebSocket is closed, and return the close code."""
    with open_websocket(api, token) as connection:
        try:
            while connection.recv(timeout=RECEIVE_TIMEOUT_S):
                pass
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 0
    return 0


def test_new_stream_during_shutdown_is_503(urls: Urls) -> None:
    with running_api(urls.owner, urls.app, urls.projector) as api:
        client = api.new_workspace().client("member")
        api.app.state.shutdown.begin()
        refused = client.get(REALTIME_PATH)
        assert (refused.status_code, refused.json()["code"]) == (503, "E3011")


def test_log_is_not_read_without_subscribers(api_workspace: ApiWorkspace, urls: Urls) -> None:
    wait_until(
        lambda: statistics(api_workspace.api)["subscribers"] == 0, "all subscribers are gone"
    )
    received = statistics(api_workspace.api)["facts"]
    api_workspace.account()
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        wait_until(
            lambda: reader_query(connection) == "UNLISTEN *", "the reader has stopped listening"
        )
    with open_stream(api_workspace.client(), kinds="account") as stream:
        stream.next("open")
        account = api_workspace.account()
        assert stream.next().data["entityId"] == account
    assert statistics(api_workspace.api)["facts"] == received + 1


def reader_query(connection: psycopg.Connection[Any]) -> str:
    """Return the last statement of the log reader's connection."""
    row = connection.execute(
        "SELECT query FROM pg_stat_activity"
        " WHERE application_name = 'annals-realtime' AND datname = current_database()"
    ).fetchone()
    return str(row[0]) if row else ""
