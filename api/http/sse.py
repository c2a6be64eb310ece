"""Server-sent events: frames, heartbeats and the answer that carries them.

A frame is bytes, made once and sent to as many as listen. How one is written is the framework's
(`fastapi.sse`, after the HTML standard, section 9.2.6); what is here are Annals' names and headers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_INTERVAL_S = 15.0
"""A stream that has nothing to tell says so this often, for proxies cut silent connections."""
RETRY_MS = 1_000
"""How long a browser waits before it comes back."""

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-cache, no-store",
    # nginx would collect an answer before it passes it on.
    "X-Accel-Buffering": "no",
}


def frame(event: str, data: bytes | str, event_id: int | str | None = None) -> bytes:
    """One event: its name, its data (JSON, already written) and where it stands.

    event_id: what the client sends back as Last-Event-ID; None leaves the last one as it was.
    """
    text = data.decode() if isinstance(data, bytes) else data
    known = None if event_id is None else str(event_id)
    return format_sse_event(event=event, data_str=text, id=known)


def heartbeat(event_id: int | str | None = None) -> bytes:
    """A comment, which no client shows; with an id, the place from which to go on moves."""
    known = None if event_id is None else str(event_id)
    return format_sse_event(comment="heartbeat", id=known)


def opening(retry_ms: int = RETRY_MS) -> bytes:
    """What a stream begins with: how long to wait before coming back, in milliseconds."""
    return format_sse_event(retry=retry_ms)


class EventStream(EventSourceResponse):
    """An answer that goes on: each item of `frames` is sent as it comes, until there are no more.

    Return it from an async route. Whether the frames end, the client goes away or the server stops,
    `frames` is closed, and then `closing` called.
    """

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        *,
        headers: Mapping[str, str] | None = None,
        closing: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(frames, headers={**HEADERS, **(headers or {})})
        self._frames = frames
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if isinstance(self._frames, AsyncGenerator):
                await self._frames.aclose()
            self._closing()
