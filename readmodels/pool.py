"""Connections for reads: read-only transactions in one workspace, on one snapshot."""

from __future__ import annotations

import asyncio
import time
from asyncio import Semaphore
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from eventlog.connections import CONNECT_TIMEOUT_S, SET_WORKSPACE, raw_json, server_settings
from eventlog.reading.positions import readable_position_async

AsyncConnection = psycopg.AsyncConnection[TupleRow]

READ_POOL_MIN = 1
READ_POOL_MAX = 8
READ_POOL_WAIT_S = 5.0
READ_POOL_QUEUE_MAX = 2_000
READ_STATEMENT_TIMEOUT_MS = 15_000


class ReadPool:
    """A pool of asynchronous connections under the application role, which owns no tables."""

    def __init__(
        self,
        app_url: str,
        *,
        max_size: int = READ_POOL_MAX,
        statement_timeout_ms: int = READ_STATEMENT_TIMEOUT_MS,
        name: str = "annals-read",
    ) -> None:
        self._queue = _Queue(max_size)
        self._pool = AsyncConnectionPool(
            app_url,
            connection_class=psycopg.AsyncConnection[TupleRow],
            min_size=min(READ_POOL_MIN, max_size),
            max_size=max_size,
            timeout=READ_POOL_WAIT_S,
            open=False,
            name=name,
            configure=_configure,
            kwargs={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": name,
                "autocommit": True,
                "options": server_settings(
                    TimeZone="UTC",
                    statement_timeout=statement_timeout_ms,
                    default_transaction_read_only="on",
                ),
            },
        )

    async def open(self) -> None:
        """Open the pool in the background; the first use waits for a connection."""
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    @asynccontextmanager
    async def workspace(self, workspace_id: UUID) -> AsyncIterator[AsyncConnection]:
        """Open a read-only transaction that sees this workspace only.

        Raises `psycopg.OperationalError` and `psycopg_pool.PoolTimeout` if no connection is free.
        """
        # No pipeline is used: it halved the rate of single reads, measured over HTTP.
        async with self.plain() as connection, _in_workspace(connection, workspace_id):
            yield connection

    @asynccontextmanager
    async def log(self, workspace_id: UUID) -> AsyncIterator[tuple[AsyncConnection, int]]:
        """Open a transaction as `workspace` does, in which the log is final up to a position.

        Yields the connection and that position.
        """
        async with self.plain() as connection:
            upto = await readable_position_async(connection)  # before the snapshot is taken
            async with _in_workspace(connection, workspace_id):
                yield connection, upto

    def plain(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection outside any workspace and any transaction.

        Each statement is a read-only transaction of its own, on a snapshot of the newest data. It
        may enter a workspace itself (`eventlog.connections.ENTERED`). Raises as `workspace`.
        """
        return _Borrowed(self._pool, self._queue)

    def statistics(self) -> dict[str, int]:
        """Size, use and queue of the pool, under psycopg's names."""
        statistics = Counter(self._pool.get_stats())
        statistics.update(self._queue.statistics())
        return statistics


class _Queue:
    """Requests that wait until one of a pool's connections is free, the first one first.

    A request that waits in the pool itself takes 50 µs of CPU more, and one that waits here 6.
    """

    def __init__(self, connections: int) -> None:
        self._free = Semaphore(connections)
        self._waiting = 0
        self._counts: Counter[str] = Counter()

    async def enter(self) -> None:
        """Wait for a connection. Raises `PoolTimeout` and `TooManyRequests`."""
        if not self._free.locked():
            await self._free.acquire()
            return
        if self._waiting >= READ_POOL_QUEUE_MAX:
            self._counts["requests_errors"] += 1
            raise TooManyRequests(f"{self._waiting} requests wait for a connection already")
        self._counts["requests_queued"] += 1
        self._waiting += 1
        since_s = time.monotonic()
        try:
            async with asyncio.timeout(READ_POOL_WAIT_S):
                await self._free.acquire()
        except TimeoutError:
            self._counts["requests_errors"] += 1
            raise PoolTimeout(f"no connection was free for {READ_POOL_WAIT_S} s") from None
        finally:
            self._waiting -= 1
            self._counts["requests_wait_ms"] += int((time.monotonic() - since_s) * 1000)

    def leave(self) -> None:
        """Let the next request have the connection."""
        self._free.release()

    def statistics(self) -> dict[str, int]:
        """What the pool has not counted, under psycopg's names."""
        return {**self._counts, "requests_waiting": self._waiting}


class _Borrowed:
    """A connection of the pool while it is in use.

    The pool's own context commits at its end, which nothing here needs, and takes three times as
    long.
    """

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection], queue: _Queue) -> None:
        self._pool = pool
        self._queue = queue

    async def __aenter__(self) -> AsyncConnection:
        await self._queue.enter()
        try:
            self._connection = await self._pool.getconn()
        except BaseException:
            self._queue.leave()
            raise
        return self._connection

    async def __aexit__(self, *_error: object) -> None:
        try:
            await self._pool.putconn(self._connection)
        finally:
            self._queue.leave()


@asynccontextmanager
async def _in_workspace(connection: AsyncConnection, workspace_id: UUID) -> AsyncIterator[None]:
    async with connection.transaction():
        await connection.execute(SET_WORKSPACE, (str(workspace_id),))
        yield


async def _configure(connection: psycopg.AsyncConnection[Any]) -> None:
    raw_json(connection)
    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
