"""Clients that follow changes, over real sockets: server-sent events and WebSocket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
from websockets.sync.client import ClientConnection, connect

from tests.support.api_server import Api

FOLLOW = "/api/realtime"
HEARD_WITHIN_S = 60.0
"""Generous: a loaded machine is no fault of the stream."""


@dataclass
class Told:
    """One event of a stream."""

    event: str
    id: int | None
    data: Any

    @property
    def position(self) -> int:
        """The position that it tells."""
        return int(self.data["position"])


class Parser:
    """Makes events out of the lines of a stream; of the comments heartbeats."""

    def __init__(self) -> None:
        self._event, self._data, self._place = "", "", ""

    def feed(self, line: str) -> Iterator[Told]:
        """The event that ends with this line, if one does."""
        name, _, value = line.partition(": ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data = value
        elif name == "id":
            self._place = value
        elif line == ": heartbeat":
            self._event, self._data = "heartbeat", "null"
        elif not line:
            if self._event:
                place = int(self._place) if self._place else None
                yield Told(self._event, place, orjson.loads(self._data))
            self._event, self._data, self._place = "", "", ""


def parsed(lines: Iterable[str]) -> Iterator[Told]:
    """Events out of the lines of a stream."""
    parser = Parser()
    for line in lines:
        yield from parser.feed(line)


class Stream:
    """Events of a stream, by whichever transport."""

    def __init__(self, told: Iterator[Told]) -> None:
        self._told = told

    def next(self, *events: str) -> Told:
        """The next one of these names (`fact` where none is given).

        Nothing else may come before, but how the stream begins, and heartbeats.
        """
        wanted = events or ("fact",)
        for told in self._told:
            if told.event in wanted:
                return told
            assert told.event in ("open", "heartbeat"), told
        raise AssertionError(f"the stream ended before {wanted}")

    def take(self, count: int, *events: str) -> list[Told]:
        """So many of them."""
        return [self.next(*events) for _ in range(count)]

    def rest(self) -> list[Told]:
        """All that comes until the stream ends, heartbeats left out."""
        return [told for told in self._told if told.event != "heartbeat"]


@contextmanager
def following(
    client: httpx.Client, last_event_id: int | None = None, **asked: str
) -> Iterator[Stream]:
    """A stream of server-sent events that has begun."""
    headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
    with client.stream(
        "GET", FOLLOW, params=asked, headers=headers, timeout=HEARD_WITHIN_S
    ) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Stream(parsed(response.iter_lines()))


def socket_of(api: Api, token: str, query: str = "", **others: Any) -> ClientConnection:
    """A WebSocket of whoever has the token. Raises `InvalidStatus` where it is refused."""
    given = {"additional_headers": {"Authorization": f"Bearer {token}"}, **others}
    url = f"{api.url.replace('http', 'ws', 1)}{FOLLOW}/ws?{query}"
    opened: ClientConnection = connect(url, open_timeout=HEARD_WITHIN_S, proxy=None, **given)
    return opened


def messages(socket: ClientConnection) -> Stream:
    """What comes over the WebSocket."""

    def told() -> Iterator[Told]:
        while True:
            message = orjson.loads(socket.recv(timeout=HEARD_WITHIN_S))
            place = int(message["id"]) if "id" in message else None
            yield Told(message["event"], place, message["data"])

    return Stream(told())
