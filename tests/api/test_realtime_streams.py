"""How streams live and end: heartbeats, limits, keys, slow clients, stops, a lost reader."""

from __future__ import annotations

import socket
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

from server.postgres.embedded import Cluster
from tests.api.test_realtime import notes
from tests.conftest import Urls, fresh_database
from tests.support.api_server import Api, Office, after, running_api
from tests.support.followers import (
    FOLLOW,
    HEARD_WITHIN_S,
    Told,
    following,
    messages,
    parsed,
    socket_of,
)
from tests.support.processes import until

QUEUE_MAX = 50
PER_KEY_MAX = 3
SUBSCRIBERS_MAX = 5
IMPATIENT: dict[str, Any] = {
    "realtime_heartbeat_s": 0.1,
    "realtime_key_check_s": 0.1,
    "realtime_queue_max": QUEUE_MAX,
    "realtime_subscribers_per_key_max": PER_KEY_MAX,
    "realtime_subscribers_max": SUBSCRIBERS_MAX,
}
BODY_CHARS = 8_000
FLOOD_MAX = 5_000
"""Notes of that size: far more than the kernel keeps for a client that does not read."""


@pytest.fixture(scope="module")
def urls(cluster: Cluster, template: str) -> Iterator[Urls]:
    """A database of this module."""
    with fresh_database(cluster, template) as urls:
        yield urls


@pytest.fixture(scope="module")
def api(urls: Urls) -> Iterator[Api]:
    """An API with little patience."""
    with running_api(urls.owner, urls.app, urls.projector, **IMPATIENT) as running:
        yield running


@pytest.fixture
def office(api: Api) -> Office:
    """A workspace of this test alone, whose admin has a key."""
    office = api.office()
    office.client()
    return office


def statistics(api: Api) -> dict[str, int]:
    """What the hub counts."""
    return dict(api.app.state.services.hub.statistics())


def test_a_heartbeat_moves_the_place_past_what_is_not_wanted(office: Office) -> None:
    with following(office.client(), kinds="contact") as stream:
        stream.next("open")
        position = int(
            office.make("accounts", company="A", type="customer").headers["Annals-Position"]
        )
        while (stream.next("heartbeat").id or 0) < position:
            pass
    with socket_of(office.api, office.token("member"), "kinds=contact") as connection:
        told = messages(connection)
        assert (told.next("heartbeat").id or 0) >= position


def test_ready_comes_once_the_tables_have_it(office: Office, urls: Urls) -> None:
    client = office.client()
    with following(client, follow="facts,ready", kinds="account") as stream:
        opened = stream.next("open")
        assert stream.next("ready").position == opened.position
        with psycopg.connect(urls.superuser) as blocker:
            blocker.execute("LOCK TABLE read.accounts IN ACCESS EXCLUSIVE MODE")
            made = office.make("accounts", company="A", type="customer")
            fact = stream.next()
            assert not is_reached(urls, fact.position)
            blocker.rollback()
        ready = stream.next("ready")
        shown = client.get(f"/api/accounts/{made.json()['id']}")
    assert shown.status_code == 200, "read at once, without waiting for a position"
    assert ready.data == {
        "position": fact.position,
        "kind": "account",
        "entityId": fact.data["entityId"],
        "accountId": None,
    }
    assert ready.id is None, "the place to go on is that of the facts"


def is_reached(urls: Urls, position: int) -> bool:
    """Whether the accounts' tables have it."""
    with psycopg.connect(urls.superuser) as connection:
        row = connection.execute("SELECT position FROM projections WHERE name = 'accounts'")
        return bool(row.fetchall()[0][0] >= position)


def test_ready_alone_is_a_place_to_go_on_from(office: Office) -> None:
    with following(office.client(), follow="ready", kinds="account") as stream:
        stream.next("open")
        stream.next("ready")
        office.account()
        first = stream.next("ready")
        assert first.id == first.position
    made = office.make("accounts", company="B", type="customer")
    office.client().get("/api/accounts", headers=after(made))
    with following(office.client(), first.id, follow="ready", kinds="account") as stream:
        second = stream.next("ready")
        assert second.data["kind"] == "account"
        third = office.account()
        assert stream.next("ready").data["entityId"] == third
    assert (first.id or 0) < second.position


def test_tables_that_stand_still_cut_nobody_off(office: Office, urls: Urls) -> None:
    with following(office.client(), follow="facts,ready", kinds="note") as stream:
        stream.next("open")
        stream.next("ready")
        with psycopg.connect(urls.superuser) as blocker:
            blocker.execute("LOCK TABLE read.notes IN ACCESS EXCLUSIVE MODE")
            made: list[int] = []
            for _ in range(3):
                made += notes(office, QUEUE_MAX // 2)
                assert [told.id for told in stream.take(QUEUE_MAX // 2)] == made[-QUEUE_MAX // 2 :]
            blocker.rollback()
        positions = [stream.next("ready").position]
        while positions[-1] < made[-1]:
            positions.append(stream.next("ready").position)
    assert len(positions) <= QUEUE_MAX
    assert positions == sorted(positions)


def test_one_key_and_one_process_have_their_limits(office: Office) -> None:
    until(lambda: statistics(office.api)["subscribers"] == 0)
    tokens = [office.token("member") for _ in range(3)]
    with ExitStack() as held:

        def follow(token: str) -> None:
            messages(held.enter_context(socket_of(office.api, token))).next("open")

        for _ in range(PER_KEY_MAX):
            follow(tokens[0])
        refused = office.api.client(tokens[0]).get(FOLLOW)
        assert (refused.status_code, refused.json()["code"]) == (429, "E2112")
        assert refused.json()["max"] == PER_KEY_MAX
        assert refused.headers["Retry-After"]
        for _ in range(SUBSCRIBERS_MAX - PER_KEY_MAX):
            follow(tokens[1])
        refused = office.api.client(tokens[2]).get(FOLLOW)
        assert (refused.status_code, refused.json()["code"]) == (503, "E3010")
        shown = office.api.client().get("/metrics").text
        assert f"annals_realtime_subscribers {SUBSCRIBERS_MAX}.0" in shown
    until(lambda: statistics(office.api)["subscribers"] == 0)


def test_a_key_that_is_revoked_ends_its_streams(office: Office) -> None:
    token, other = office.token("member"), office.token("member")
    key_id = UUID(token.split("_")[1])
    with (
        following(office.api.client(token)) as stream,
        socket_of(office.api, token) as connection,
        following(office.api.client(other), kinds="account") as of_other,
    ):
        stream.next("open")
        told = messages(connection)
        told.next("open")
        of_other.next("open")
        assert office.client().delete(f"/api/keys/{key_id}").status_code == 204
        assert [each.data for each in stream.rest()] == [{"reason": "key"}]
        assert told.next("end").data == {"reason": "key"}
        with pytest.raises(ConnectionClosedError) as closed:
            told.next()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        account = office.account()
        assert of_other.next().data["entityId"] == account


def test_a_key_that_expires_ends_its_streams(office: Office) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    token = office.token("member", expiresAt=soon.isoformat())
    with following(office.api.client(token)) as stream:
        stream.next("open")
        assert [each.data for each in stream.rest()] == [{"reason": "key"}]


class Sleeper:
    """A client that asks for a stream and does not read it until it is told to."""

    def __init__(self, office: Office, token: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self._socket.settimeout(HEARD_WITHIN_S)
        self._socket.connect(("127.0.0.1", office.api.settings.port))
        head = f"Host: annals\r\nAuthorization: Bearer {token}"
        self._socket.sendall(f"GET {FOLLOW}?kinds=note HTTP/1.1\r\n{head}\r\n\r\n".encode())

    def close(self) -> None:
        """Go away."""
        self._socket.close()

    def wake(self) -> list[Told]:
        """All that it was sent, to the end of the answer."""
        with self._socket.makefile("r", encoding="utf-8", newline="\n") as lines:
            return list(parsed(self._body(lines)))

    @staticmethod
    def _body(lines: Iterable[str]) -> Iterator[str]:
        """Lines of events: HTTP's own, which tell of chunks, end in another way."""
        for line in lines:
            if line == "0\r\n":
                return
            if not line.endswith("\r\n"):
                yield line.rstrip("\n")


@contextmanager
def asleep(office: Office, token: str) -> Iterator[Sleeper]:
    """A client that follows notes, and does not read until more than is kept for it was sent."""
    before = statistics(office.api)
    with following(office.api.client(token), kinds="note") as other:
        other.next("open")
        sleeper = Sleeper(office, token)
        try:
            until(lambda: statistics(office.api)["subscribers"] == before["subscribers"] + 2)
            made = 0
            while statistics(office.api)["cut_off"] == before["cut_off"]:
                # The other one hears of all of it, whatever becomes of the first.
                positions = notes(office, QUEUE_MAX // 2, "x" * BODY_CHARS)
                assert [each.id for each in other.take(len(positions))] == positions
                made += len(positions)
                assert made < FLOOD_MAX
            yield sleeper
        finally:
            sleeper.close()


def test_a_slow_client_is_cut_off_and_goes_on_and_holds_nobody_up(
    office: Office, urls: Urls
) -> None:
    token = office.token("member")
    with asleep(office, token) as sleeper:
        told = sleeper.wake()
    facts = [each.id for each in told if each.event == "fact"]
    made = positions_of(urls, office, "note.created")
    assert told[-1].event == "end"
    assert told[-1].data == {"reason": "slow"}
    assert facts == made[: len(facts)]
    assert len(facts) < len(made)
    with following(office.api.client(token), facts[-1], kinds="note") as stream:
        rest = stream.take(len(made) - len(facts))
    assert [*facts, *(each.id for each in rest)] == made


def positions_of(urls: Urls, office: Office, topic: str) -> list[int | None]:
    """Where the log has events of this topic, in order."""
    with psycopg.connect(urls.superuser) as connection:
        rows = connection.execute(
            "SELECT position FROM events WHERE workspace_id = %s AND topic = %s ORDER BY position",
            (office.workspace_id, topic),
        )
        return [row[0] for row in rows]


def test_a_client_that_reads_nothing_any_more_is_forgotten(urls: Urls) -> None:
    settings = {**IMPATIENT, "unread_timeout_s": 1.0}
    with running_api(urls.owner, urls.app, urls.projector, **settings) as api:
        office = api.office()
        with asleep(office, office.token("member")):
            until(lambda: statistics(api)["subscribers"] == 1)  # the one that reads
            assert statistics(api)["cut_off"] == 1


def test_a_reader_that_loses_its_connection_loses_no_event(office: Office, urls: Urls) -> None:
    with following(office.client(), kinds="account") as stream:
        stream.next("open")
        made = []
        for _ in range(3):
            made.append(office.account())
            terminate_reader(urls)
            made.append(office.account())
        assert [each.data["entityId"] for each in stream.take(len(made))] == made


def terminate_reader(urls: Urls) -> None:
    """Have PostgreSQL close the connection that reads the log."""
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'annals-realtime' AND datname = current_database()"
        )


def test_a_log_that_is_shorter_than_before_ends_streams(office: Office, urls: Urls) -> None:
    with (
        following(office.client()) as stream,
        psycopg.connect(urls.superuser, autocommit=True) as connection,
    ):
        stream.next("open")
        office.account()
        last = stream.next().id
        connection.execute("SELECT setval('events_position_seq', 1)")
        try:
            terminate_reader(urls)
            assert [each.data for each in stream.rest()] == [{"reason": "reset"}]
        finally:
            connection.execute("SELECT setval('events_position_seq', %s)", (last,))


def test_a_stop_of_the_server_ends_streams(urls: Urls) -> None:
    with ThreadPoolExecutor(2) as followers:
        with running_api(urls.owner, urls.app, urls.projector) as api:
            token = api.office().token("member")
            by_events = followers.submit(to_the_end, api, token)
            by_socket = followers.submit(to_the_end_by_socket, api, token)
            until(lambda: statistics(api)["subscribers"] == 2)
        # Here the server has stopped, and it did not have to wait until its patience ended.
        assert by_events.result(HEARD_WITHIN_S).data == {"reason": "shutdown"}
        assert by_socket.result(HEARD_WITHIN_S) == 1012


def to_the_end(api: Api, token: str) -> Told:
    """Follow until the stream ends; what was heard last."""
    headers = {"Authorization": f"Bearer {token}"}
    with (
        httpx.Client(base_url=api.url, headers=headers, verify=False) as client,
        following(client) as stream,
    ):
        return stream.rest()[-1]


def to_the_end_by_socket(api: Api, token: str) -> int:
    """Follow until the WebSocket is closed; by which code."""
    with socket_of(api, token) as connection:
        try:
            while connection.recv(timeout=HEARD_WITHIN_S):
                pass
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 0
    return 0


def test_a_server_that_stops_begins_no_new_streams(urls: Urls) -> None:
    with running_api(urls.owner, urls.app, urls.projector) as api:
        client = api.office().client("member")
        api.app.state.shutdown.begin()
        refused = client.get(FOLLOW)
        assert (refused.status_code, refused.json()["code"]) == (503, "E3011")


def test_nothing_is_read_while_nobody_follows(office: Office, urls: Urls) -> None:
    until(lambda: statistics(office.api)["subscribers"] == 0)
    told = statistics(office.api)["facts"]
    office.account()
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        until(lambda: reader_query(connection) == "UNLISTEN *")
    with following(office.client(), kinds="account") as stream:
        stream.next("open")
        account = office.account()
        assert stream.next().data["entityId"] == account
    assert statistics(office.api)["facts"] == told + 1


def reader_query(connection: psycopg.Connection[Any]) -> str:
    """The statement that the reader of the log sent last."""
    row = connection.execute(
        "SELECT query FROM pg_stat_activity"
        " WHERE application_name = 'annals-realtime' AND datname = current_database()"
    ).fetchone()
    return str(row[0]) if row else ""
