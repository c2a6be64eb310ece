"""The encoding of events for each transport, done once for all subscribers who see the same."""

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
    """A transport: its name, and how it encodes events and heartbeats."""

    name: str
    frame: Callable[[str, bytes, int | None], bytes]
    """Encodes the name, JSON data and id of an event; a client resumes after the id."""
    heartbeat: Callable[[int | None], bytes]

    def fact(self, fact: Fact, visibility: Visibility) -> bytes:
        """Encode the fact as this visibility shows it."""
        frame = fact.frames.get((self.name, visibility))
        if frame is None:
            body = redact(fact.body, visibility)
            frame = fact.frames[self.name, visibility] = self.frame(FACT, body, fact.position)
        return frame

    def ready(self, fact: Fact, *, is_resumable: bool) -> bytes:
        """Encode that the read tables have this fact. is_resumable: clients resume after it."""
        frame = fact.frames.get((self.name, is_resumable))
        if frame is None:
            data = {
                "position": fact.position,
                "kind": fact.kind,
                "entityId": fact.entity_id,
                "accountId": fact.account_id,
            }
            event_id = fact.position if is_resumable else None
            frame = self.frame(READY, orjson.dumps(data), event_id)
            fact.frames[self.name, is_resumable] = frame
        return frame

    def at(self, event: str, position: int, *, is_resumable: bool) -> bytes:
        """Encode an event that has only a position."""
        event_id = position if is_resumable else None
        return self.frame(event, orjson.dumps({"position": position}), event_id)

    def end(self, reason: str) -> bytes:
        """Encode the last event of a stream that the server ends."""
        return self.frame(END, orjson.dumps({"reason": reason}), None)


def _message(event: str, data: bytes, event_id: int | None) -> bytes:
    if event_id is None:
        return b'{"event":"%s","data":%s}' % (event.encode(), data)
    return b'{"event":"%s","id":"%d","data":%s}' % (event.encode(), event_id, data)


def _heartbeat(event_id: int | None) -> bytes:
    return _message(HEARTBEAT, b"null", event_id)


SSE = Transport("sse", sse.frame, sse.heartbeat)
"""Server-sent events."""
WEBSOCKET = Transport("socket", _message, _heartbeat)
"""Text messages over WebSocket, each `{event, id?, data}`."""
