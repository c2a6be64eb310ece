"""Exports on their way to a client: how many at once, for how long, and what ends one early.

A stream that breaks off has no last chunk (RFC 9112, 7.1), so no client takes a part for the whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from uuid import UUID

import psycopg
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from readmodels.exports import Export, Format, blocks, one_point
from readmodels.pool import AsyncConnection, ReadPool
from runtime import codes
from runtime.errors import ApiError

log = logging.getLogger(__name__)

MEDIA_TYPES: Mapping[Format, str] = {
    Format.CSV: "text/csv; charset=utf-8; header=present",
    Format.NDJSON: "application/x-ndjson",
}

Prepare = Callable[[AsyncConnection], Awaitable[Export]]


@dataclass(frozen=True)
class ExportLimits:
    """What exports may take; the settings of the same names tell more."""

    at_once: int
    per_workspace: int
    timeout_s: float
    stall_timeout_s: float


class ExportAborted(Exception):
    """An export is ended by us, for the reason in the message."""


class ExportLimiter:
    """The exports of this process: their connections, and who has how many of them.

    Lives in the event loop.
    """

    def __init__(self, pool: ReadPool, limits: ExportLimits) -> None:
        self.pool = pool
        self.limits = limits
        self._under_way: Counter[UUID] = Counter()

    @contextmanager
    def place(self, workspace_id: UUID) -> Iterator[None]:
        """Room for one more. Raises 429 (E2081) and 503 (E2080) where there is none."""
        if self._under_way[workspace_id] >= self.limits.per_workspace:
            raise ApiError(codes.TOO_MANY_EXPORTS_OF_WORKSPACE, limit=self.limits.per_workspace)
        if self._under_way.total() >= self.limits.at_once:
            raise ApiError(codes.TOO_MANY_EXPORTS, limit=self.limits.at_once)
        self._under_way[workspace_id] += 1
        try:
            yield
        finally:
            self._under_way[workspace_id] -= 1
            self._under_way += Counter()  # forgets whoever has none


@dataclass(frozen=True)
class ExportRequest:
    """What is to be exported: of which workspace, from which projections, under which name."""

    workspace_id: UUID
    name: str
    form: Format
    projections: Collection[str]
    prepare: Prepare


class ExportResponse(Response):
    """An export as an answer; everything that it takes is taken when it is sent."""

    def __init__(self, desk: ExportLimiter, order: ExportRequest) -> None:
        super().__init__(media_type=MEDIA_TYPES[order.form])
        self._desk = desk
        self._order = order
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until it ends, is cut off or nobody listens any more.

        Raises, before anything is sent, what `one_point` and `place` raise.
        """
        streaming = asyncio.create_task(self._stream(scope["method"], send))
        gone = asyncio.create_task(_gone(receive))
        timeout_s = self._desk.limits.timeout_s
        try:
            await asyncio.wait(
                {streaming, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not streaming.done():
                if gone.done():
                    raise ClientDisconnect
                raise ExportAborted(f"it took over {timeout_s:g} s")
            await streaming
        except (ExportAborted, psycopg.Error) as reason:
            if not self._has_begun:
                raise (
                    ApiError(codes.TIMED_OUT) if isinstance(reason, ExportAborted) else reason
                ) from None
            # No last chunk: the server closes the connection, and the client sees that it is short.
            log.warning("an export of %s was cut off: %s", self._order.name, reason)
        finally:
            streaming.cancel()
            gone.cancel()
            await asyncio.gather(streaming, gone, return_exceptions=True)

    async def _stream(self, method: str, send: Send) -> None:
        order, desk = self._order, self._desk
        with desk.place(order.workspace_id):
            async with one_point(desk.pool, order.workspace_id, order.projections) as point:
                export = await order.prepare(point.connection)
                self._has_begun = True
                await self._send(send, self._head(point.position))
                if method != "HEAD":
                    async with aclosing(blocks(point.connection, export)) as stream:
                        async for block in stream:
                            await self._send(send, _body(block, more=True))
        await self._send(send, _body(b"", more=False))

    def _head(self, position: int) -> Message:
        name = f"{self._order.name}-{position}.{self._order.form}"
        headers = {
            "content-type": MEDIA_TYPES[self._order.form],
            "content-disposition": f'attachment; filename="{name}"',
            "annals-position": str(position),
            "vary": "Accept",
        }
        raw = [(key.encode(), value.encode()) for key, value in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": raw}

    async def _send(self, send: Send, message: Message) -> None:
        """Hand it to the server, which takes it once the reader has taken what was before it."""
        timeout_s = self._desk.limits.stall_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await send(message)
        except TimeoutError:
            raise ExportAborted(f"its reader took nothing for {timeout_s:g} s") from None
        # A reader that is faster than PostgreSQL leaves nobody else a turn otherwise.
        await asyncio.sleep(0)


def _body(content: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
