"""Subscribers see each event once, despite commits out of order and kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import psycopg
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.support.api_server import ApiWorkspace
from tests.support.killable_stack import KillableStack, issue_token
from tests.support.postgres_server import reachable_folder
from tests.support.realtime_client import (
    REALTIME_PATH,
    RECEIVE_TIMEOUT_S,
    EventParser,
    StreamEvent,
    open_stream,
)
from tests.support.waiting import wait_until, wait_until_projected

pytestmark = pytest.mark.long(seconds=25)

SUBSCRIBERS = 100
BY_WEBSOCKET = 10
"""Number of these subscribers that use WebSocket."""
KILLS = ["api", "postgres", "api", "postgres"]
WRITES_BETWEEN_KILLS = (10, 40)
SEED = 5
RECONNECT_DELAY_S = 0.05
WRITERS = 6
TRANSACTIONS_EACH = 15
EVENTS_PER_VISIT = 5
DISCONNECTED = (httpx.TransportError, WebSocketException, OSError, TimeoutError)


@dataclass
class Follower:
    """A subscriber that reconnects with the last id received whenever the stream ends."""

    token: str
    last: int
    seen: list[int] = field(default_factory=list)
    connections: int = 0

    def receive(self, received: StreamEvent) -> None:
        """Record the position of a fact and the id of the event."""
        if received.event == "fact":
            self.seen.append(received.position)
        if received.id is not None:
            self.last = received.id

    async def follow(
        self, stack: KillableStack, http: httpx.AsyncClient, by_websocket: bool
    ) -> None:
        """Follow until cancelled."""
        while True:
            self.connections += 1
            with contextlib.suppress(*DISCONNECTED):
                await (self._by_websocket(stack) if by_websocket else self._by_events(stack, http))
            await asyncio.sleep(RECONNECT_DELAY_S)  # clients pause before they reconnect

    async def _by_events(self, stack: KillableStack, http: httpx.AsyncClient) -> None:
        headers = {"Authorization": f"Bearer {self.token}", "Last-Event-ID": str(self.last)}
        parser = EventParser()
        async with http.stream("GET", f"{stack.url}{REALTIME_PATH}", headers=headers) as response:
            if response.status_code == 200:
                async for line in response.aiter_lines():
                    for received in parser.feed(line):
                        self.receive(received)

    async def _by_websocket(self, stack: KillableStack) -> None:
        url = f"{stack.url.replace('http', 'ws', 1)}{REALTIME_PATH}/ws?lastEventId={self.last}"
        headers = {"Authorization": f"Bearer {self.token}"}
        async with connect(url, additional_headers=headers, proxy=None) as socket:
            async for message in socket:
                event = orjson.loads(message)
                event_id = int(event["id"]) if "id" in event else None
                self.receive(StreamEvent(event["event"], event_id, event["data"]))


class Followers(threading.Thread):
    """A thread with an event loop that runs all followers."""

    def __init__(self, stack: KillableStack, token: str) -> None:
        super().__init__(name="followers")
        self.all = [Follower(token, 0) for _ in range(SUBSCRIBERS)]
        self.stopped = threading.Event()
        self._stack = stack

    def run(self) -> None:
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            timeout=RECEIVE_TIMEOUT_S, limits=limits, verify=False
        ) as http:
            tasks = [
                asyncio.create_task(each.follow(self._stack, http, number < BY_WEBSOCKET))
                for number, each in enumerate(self.all)
            ]
            stopped = asyncio.create_task(asyncio.to_thread(self.stopped.wait))
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            assert done == {stopped}, done
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Writer(threading.Thread):
    """Creates accounts, one after the other."""

    def __init__(self, stack: KillableStack, token: str, stopped: threading.Event) -> None:
        super().__init__(name="writer")
        self._stack = stack
        self._headers = {"Authorization": f"Bearer {token}"}
        self._stopped = stopped
        self.written = 0

    def run(self) -> None:
        with httpx.Client(base_url=self._stack.url, headers=self._headers, verify=False) as http:
            while not self._stopped.is_set():
                with contextlib.suppress(httpx.TransportError):
                    answer = http.post(
                        "/api/accounts", json={"company": "Acme", "type": "customer"}
                    )
                    self.written += answer.is_success
                self._stopped.wait(0.01)


def test_every_subscriber_sees_every_event_once_in_order_despite_kills() -> None:
    random, workspace_id = Random(SEED), uuid4()
    with reachable_folder() as folder:
        stack = KillableStack(folder)
        try:
            stack.start("api")
            stack.start("projector")
            wait_until(stack.is_ready, "the API is ready")
            token = issue_token(stack.owner_url, workspace_id)
            with psycopg.connect(stack.superuser_url, autocommit=True) as database:
                wait_until_projected(database)
            followers = Followers(stack, token)
            followers.start()
            try:
                recorded = write_while_killing(stack, token, random, workspace_id)
                wait_until(
                    lambda: all(each.seen[-1:] == recorded[-1:] for each in followers.all),
                    "every subscriber has seen the last event",
                )
            finally:
                followers.stopped.set()
                followers.join(RECEIVE_TIMEOUT_S)
        finally:
            stack.stop()
    assert len(recorded) > len(KILLS)
    for each in followers.all:
        assert each.connections > len(KILLS) // 2
        assert each.seen == recorded


def wait_for_writes(writers: list[Writer], number: int) -> None:
    """Wait until this many more writes are acknowledged."""

    def count_writes() -> int:
        return sum(writer.written for writer in writers)

    target = count_writes() + number
    wait_until(lambda: count_writes() >= target, f"{number} more writes are acknowledged")


def write_while_killing(
    stack: KillableStack, token: str, random: Random, workspace_id: UUID
) -> list[int]:
    """Kill and restart processes during writes; return the positions of the workspace's events."""
    stopped = threading.Event()
    writers = [Writer(stack, token, stopped) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for name in KILLS:
            wait_for_writes(writers, random.randint(*WRITES_BETWEEN_KILLS))
            stack.kill(name)
            stack.restart(name)
            wait_until(stack.is_ready, "the API is ready")
        wait_for_writes(writers, WRITES_BETWEEN_KILLS[0])
    finally:
        stopped.set()
        for writer in writers:
            writer.join(RECEIVE_TIMEOUT_S)
    with psycopg.connect(stack.superuser_url) as database:
        rows = database.execute(
            "SELECT position FROM events WHERE workspace_id = %s ORDER BY position",
            (workspace_id,),
        )
        return [row[0] for row in rows]


class OutOfOrderWriter(threading.Thread):
    """Appends in transactions that overlap and commit out of order or roll back."""

    def __init__(self, url: str, workspace_id: UUID, seed: int) -> None:
        super().__init__(name=f"writer-{seed}")
        self._url = url
        self._workspace_id = workspace_id
        self._random = Random(seed)

    def run(self) -> None:
        with psycopg.connect(self._url) as connection:
            for _ in range(TRANSACTIONS_EACH):
                for _ in range(self._random.randint(1, 3)):
                    self._append(connection)
                    time.sleep(self._random.random() * 0.02)  # so that transactions overlap
                if self._random.random() < 0.3:
                    connection.rollback()
                else:
                    connection.commit()

    def _append(self, connection: psycopg.Connection[Any]) -> None:
        event = {
            "stream": str(uuid4()),
            "version": 1,
            "topic": "note.created",
            "account": str(uuid4()),
            "occurred": "2026-01-31T12:00:00Z",
            "data": {"fields": {"body": "x"}},
        }
        connection.execute(
            "SELECT append_events(%s::uuid, %s::json, '{}'::json)",
            (self._workspace_id, orjson.dumps([event]).decode()),
        )


@pytest.mark.parametrize("seed", [7])
def test_reconnecting_subscriber_sees_out_of_order_commits_once(
    api_workspace: ApiWorkspace, seed: int
) -> None:
    client = api_workspace.client()
    url = str(api_workspace.api.settings.app_url)
    with open_stream(client) as constant_stream:
        start = constant_stream.next("open").position
        writers = [
            OutOfOrderWriter(url, api_workspace.workspace_id, seed + n) for n in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        try:
            visits = [visit(client, start)]
            while any(writer.is_alive() for writer in writers):
                visits.append(visit(client, visits[-1][-1]))
        finally:
            for writer in writers:
                writer.join(RECEIVE_TIMEOUT_S)
        last = int(
            api_workspace.make("accounts", company="A", type="customer").headers["Annals-Position"]
        )
        whole = [constant_stream.next().position]
        while whole[-1] < last:
            whole.append(constant_stream.next().position)
    in_parts = [position for seen in visits for position in seen]
    while in_parts[-1] < last:
        in_parts += visit(client, in_parts[-1], limit=1)
    with psycopg.connect(url) as connection:
        connection.execute(
            "SELECT set_config('annals.workspace_id', %s, false)",
            (str(api_workspace.workspace_id),),
        )
        rows = connection.execute(
            "SELECT position FROM events WHERE position > %s ORDER BY position", (start,)
        )
        recorded = [row[0] for row in rows]
    assert whole == recorded
    assert in_parts == recorded
    assert last - start > len(recorded), "at least one transaction was rolled back"


def visit(client: httpx.Client, after: int, limit: int = EVENTS_PER_VISIT) -> list[int]:
    """Connect after a position, return the next positions and disconnect."""
    with open_stream(client, after) as stream:
        return [received.position for received in stream.take(limit)]
