"""Server-sent events: frames, heartbeats and the response that streams them.

A frame is bytes, encoded once and sent to every subscriber. The framework encodes it
(`fastapi.sse`, HTML standard, section 9.2.6); this module adds the names and headers of Annals.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_INTERVAL_S = 15.0
"""Seconds between heartbeats of an idle stream; proxies close silent connections."""
RETRY_MS = 1_000
"""Milliseconds that a browser waits before it reconnects."""

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-cache, no-store",
    # Without it, nginx would buffer the response.
    "X-Accel-Buffering": "no",
}


def frame(event: str, data: bytes | str, event_id: int | str | None = None) -> bytes:
    """Encode one event from its name and its data, which is JSON.

    event_id: what the client sends back as Last-Event-ID; None keeps the previous id.
    """
    text = data.decode() if isinstance(data, bytes) else data
    return format_sse_event(event=event, data_str=text, id=_text(event_id))


def heartbeat(event_id: int | str | None = None) -> bytes:
    """Encode a comment, which clients ignore; an id still becomes the client's Last-Event-ID."""
    return format_sse_event(comment="heartbeat", id=_text(event_id))


def opening(retry_ms: int = RETRY_MS) -> bytes:
    """Encode the start of a stream: the reconnection delay in milliseconds."""
    return format_sse_event(retry=retry_ms)


def _text(event_id: int | str | None) -> str | None:
    return None if event_id is None else str(event_id)


class EventStream(EventSourceResponse):
    """A streaming response that sends each item of `frames` as it arrives, until they end.

    Return it from an async route. When the frames end, the client disconnects or the server stops,
    `frames` is closed and then `closing` is called.
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
        """Send the frames."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if isinstance(self._frames, AsyncGenerator):
                await self._frames.aclose()
            self._closing()
