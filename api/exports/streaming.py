"""Streaming of exports to a client, with limits on their number and duration.

An aborted stream lacks its last chunk (RFC 9112, 7.1), so clients notice that it is incomplete.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from uuid import UUID

import psycopg
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.exports.formats import MEDIA_TYPES
from readmodels.exports import Export, Format, Snapshot, blocks, consistent_snapshot
from readmodels.pool import ReadPool
from runtime import codes
from runtime.errors import ApiError

log = logging.getLogger(__name__)

Prepare = Callable[[Snapshot], Awaitable[Export]]


@dataclass(frozen=True)
class ExportLimits:
    """Limits of exports; the settings `exports_max` and following explain each."""

    at_once: int
    per_workspace: int
    timeout_s: float
    stall_timeout_s: float


class ExportAborted(Exception):
    """The server aborts an export, for the reason in the message."""


class ExportLimiter:
    """Limits the exports of this process, and holds their connections.

    Used in the event loop only.
    """

    def __init__(self, pool: ReadPool, limits: ExportLimits) -> None:
        self.pool = pool
        self.limits = limits
        self._running: Counter[UUID] = Counter()

    @contextmanager
    def slot(self, workspace_id: UUID) -> Iterator[None]:
        """Count one export for the duration of the block.

        Raises 429 (E2081) and 503 (E2080) if a limit is reached.
        """
        if self._running[workspace_id] >= self.limits.per_workspace:
            raise ApiError(codes.TOO_MANY_EXPORTS_OF_WORKSPACE, limit=self.limits.per_workspace)
        if self._running.total() >= self.limits.at_once:
            raise ApiError(codes.TOO_MANY_EXPORTS, limit=self.limits.at_once)
        self._running[workspace_id] += 1
        try:
            yield
        finally:
            self._running[workspace_id] -= 1
            self._running += Counter()  # removes workspaces whose count is zero


@dataclass(frozen=True)
class ExportRequest:
    """The workspace to export from, the file name, the projections read, and the query.

    Without projections the log is read.
    """

    workspace_id: UUID
    name: str
    format: Format
    projections: Collection[str]
    prepare: Prepare


class ExportResponse(Response):
    """A response that streams an export. It acquires its slot and connection when it is sent."""

    def __init__(self, limiter: ExportLimiter, request: ExportRequest) -> None:
        super().__init__(media_type=MEDIA_TYPES[request.format])
        self._limiter = limiter
        self._request = request
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the export until it ends, is aborted or the client disconnects.

        Raises the errors of `consistent_snapshot` and `ExportLimiter.slot` before anything is sent.
        """
        streaming = asyncio.create_task(self._stream(scope["method"], send))
        disconnect = asyncio.create_task(_wait_for_disconnect(receive))
        timeout_s = self._limiter.limits.timeout_s
        try:
            await asyncio.wait(
                {streaming, disconnect}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not streaming.done():
                if disconnect.done():
                    raise ClientDisconnect
                raise ExportAborted(f"it took longer than {timeout_s:g} s")
            await streaming
        except (ExportAborted, psycopg.Error) as reason:
            if not self._has_begun:
                if isinstance(reason, ExportAborted):
                    raise ApiError(codes.TIMED_OUT) from None
                raise
            # The last chunk is missing, so the server closes the connection and the client notices.
            log.warning("an export of %s was aborted: %s", self._request.name, reason)
        finally:
            streaming.cancel()
            disconnect.cancel()
            await asyncio.gather(streaming, disconnect, return_exceptions=True)

    async def _stream(self, method: str, send: Send) -> None:
        request, limiter = self._request, self._limiter
        with limiter.slot(request.workspace_id):
            async with consistent_snapshot(
                limiter.pool, request.workspace_id, request.projections
            ) as snapshot:
                export = await request.prepare(snapshot)
                self._has_begun = True
                await self._send(send, self._head(snapshot.position))
                if method != "HEAD":
                    async with aclosing(blocks(snapshot.connection, export)) as stream:
                        async for block in stream:
                            await self._send(send, _body(block, more=True))
        await self._send(send, _body(b"", more=False))

    def _head(self, position: int) -> Message:
        name = f"{self._request.name}-{position}.{self._request.format}"
        headers = {
            "content-type": MEDIA_TYPES[self._request.format],
            "content-disposition": f'attachment; filename="{name}"',
            "annals-position": str(position),
            "vary": "Accept",
        }
        raw = [(key.encode(), value.encode()) for key, value in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": raw}

    async def _send(self, send: Send, message: Message) -> None:
        """Send a message. The server accepts it once the client has read the previous ones."""
        timeout_s = self._limiter.limits.stall_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await send(message)
        except TimeoutError:
            raise ExportAborted(f"the client read nothing for {timeout_s:g} s") from None
        # Yield to the event loop: a client that reads faster than PostgreSQL sends would block it.
        await asyncio.sleep(0)


def _body(content: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
