"""Clients of realtime subscriptions, over sockets: server-sent events and WebSocket."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
from websockets.sync.client import ClientConnection, connect

from domain.note import Note
from eventlog.scope import Scope
from tests.support.api_server import Api, ApiWorkspace

REALTIME_PATH = "/api/realtime"
RECEIVE_TIMEOUT_S = 60.0
"""Generous, because a loaded machine is no failure of the stream."""


@dataclass
class StreamEvent:
    """One event of a stream."""

    event: str
    id: int | None
    data: Any

    @property
    def position(self) -> int:
        """The position that the event carries."""
        return int(self.data["position"])


class EventParser:
    """Parses the lines of a stream of server-sent events; a heartbeat comment becomes an event."""

    def __init__(self) -> None:
        self._event, self._data, self._id = "", "", ""

    def feed(self, line: str) -> Iterator[StreamEvent]:
        """Yield the event that this line completes, if it does."""
        name, _, value = line.partition(": ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data = value
        elif name == "id":
            self._id = value
        elif line == ": heartbeat":
            self._event, self._data = "heartbeat", "null"
        elif not line:
            if self._event:
                event_id = int(self._id) if self._id else None
                yield StreamEvent(self._event, event_id, orjson.loads(self._data))
            self._event, self._data, self._id = "", "", ""


def parsed(lines: Iterable[str]) -> Iterator[StreamEvent]:
    """Yield the events of a stream's lines."""
    parser = EventParser()
    for line in lines:
        yield from parser.feed(line)


class EventStream:
    """The events of a subscription, over either transport, after a position."""

    def __init__(self, received: Iterator[StreamEvent], after: int = 0) -> None:
        self._events = (
            each
            for each in received
            if each.event not in ("fact", "ready") or each.position > after
        )

    def next(self, *events: str) -> StreamEvent:
        """Return the next event with one of these names, by default `fact`.

        Fails if any other event comes before it, except `open` and heartbeats, or if it does not
        come in time.
        """
        wanted = events or ("fact",)
        until = time.monotonic() + RECEIVE_TIMEOUT_S
        for received in self._events:
            if received.event in wanted:
                return received
            assert received.event in ("open", "heartbeat"), received
            assert time.monotonic() < until, f"only heartbeats came before {wanted}"
        raise AssertionError(f"the stream ended before {wanted}")

    def take(self, count: int, *events: str) -> list[StreamEvent]:
        """Return the next `count` events with these names."""
        return [self.next(*events) for _ in range(count)]

    def rest(self) -> list[StreamEvent]:
        """Return all events until the stream ends, without heartbeats."""
        return [received for received in self._events if received.event != "heartbeat"]


@contextmanager
def open_stream(
    client: httpx.Client, last_event_id: int | None = None, *, skip_to: int = 0, **query: str
) -> Iterator[EventStream]:
    """Open a stream of server-sent events while the block lasts; skip facts up to a position."""
    headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
    with client.stream(
        "GET", REALTIME_PATH, params=query, headers=headers, timeout=RECEIVE_TIMEOUT_S
    ) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield EventStream(parsed(response.iter_lines()), skip_to)


def open_websocket(api: Api, token: str, query: str = "", **others: Any) -> ClientConnection:
    """Open a WebSocket with this token. Raises `InvalidStatus` if it is refused."""
    options = {"additional_headers": {"Authorization": f"Bearer {token}"}, **others}
    url = f"{api.url.replace('http', 'ws', 1)}{REALTIME_PATH}/ws?{query}"
    opened: ClientConnection = connect(url, open_timeout=RECEIVE_TIMEOUT_S, proxy=None, **options)
    return opened


def websocket_events(socket: ClientConnection, *, skip_to: int = 0) -> EventStream:
    """Return the events that come over a WebSocket; skip facts up to a position."""

    def received() -> Iterator[StreamEvent]:
        while True:
            message = orjson.loads(socket.recv(timeout=RECEIVE_TIMEOUT_S))
            event_id = int(message["id"]) if "id" in message else None
            yield StreamEvent(message["event"], event_id, message["data"])

    return EventStream(received(), skip_to)


def append_notes(api_workspace: ApiWorkspace, count: int, body: str = "x") -> list[int]:
    """Append this number of notes in one transaction; return their positions."""
    account = UUID(api_workspace.account())
    log, workspace_id, at = (
        api_workspace.api.writing.log,
        api_workspace.workspace_id,
        datetime.now(UTC),
    )
    made = [
        Note.create(uuid4(), workspace_id, {"body": body}, at=at, account_id=account)
        for _ in range(count)
    ]
    with log.scoped(Scope(workspace_id)):
        last = log.append(*made)
    assert last is not None
    return list(range(last - count + 1, last + 1))
