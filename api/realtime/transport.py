"""How facts are written for each transport: once, for all who see as much of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from api.http import sse
from api.http.visibility import Visibility, redact
from replay.facts import Fact

FACT = "fact"
READY = "ready"
OPEN = "open"
END = "end"
HEARTBEAT = "heartbeat"


@dataclass(frozen=True)
class Transport:
    """A transport: its name, and how an event of a stream and a heartbeat are written."""

    name: str
    frame: Callable[[str, bytes, int | None], bytes]
    """Of name, JSON and id; the id is where a client that heard this goes on."""
    heartbeat: Callable[[int | None], bytes]

    def fact(self, fact: Fact, sight: Visibility) -> bytes:
        """The fact as this sight shows it."""
        made = fact.told.get((self.name, sight))
        if made is None:
            body = redact(fact.body, sight)
            made = fact.told[self.name, sight] = self.frame(FACT, body, fact.position)
        return made

    def ready(self, fact: Fact, *, is_place: bool) -> bytes:
        """That the read tables have what the fact says. is_place: it is where to go on."""
        made = fact.told.get((self.name, is_place))
        if made is None:
            told = {
                "position": fact.position,
                "kind": fact.kind,
                "entityId": fact.entity_id,
                "accountId": fact.account_id,
            }
            event_id = fact.position if is_place else None
            made = self.frame(READY, orjson.dumps(told), event_id)
            fact.told[self.name, is_place] = made
        return made

    def at(self, event: str, position: int, *, is_place: bool) -> bytes:
        """An event that tells a position and no more."""
        event_id = position if is_place else None
        return self.frame(event, orjson.dumps({"position": position}), event_id)

    def end(self, reason: str) -> bytes:
        """The last one of a stream that the server ends."""
        return self.frame(END, orjson.dumps({"reason": reason}), None)


def _message(event: str, data: bytes, event_id: int | None) -> bytes:
    if event_id is None:
        return b'{"event":"%s","data":%s}' % (event.encode(), data)
    return b'{"event":"%s","id":"%d","data":%s}' % (event.encode(), event_id, data)


def _beat(event_id: int | None) -> bytes:
    return _message(HEARTBEAT, b"null", event_id)


SSE = Transport("sse", sse.frame, sse.heartbeat)
"""Server-sent events."""
WEBSOCKET = Transport("socket", _message, _beat)
"""Text messages of a WebSocket, each `{event, id?, data}`."""
