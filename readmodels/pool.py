"""Connections for reads: read-only transactions in one workspace, on one snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

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
        self._pool = AsyncConnectionPool(
            app_url,
            connection_class=psycopg.AsyncConnection[TupleRow],
            min_size=min(READ_POOL_MIN, max_size),
            max_size=max_size,
            timeout=READ_POOL_WAIT_S,
            max_waiting=READ_POOL_QUEUE_MAX,
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

    @asynccontextmanager
    async def plain(self) -> AsyncIterator[AsyncConnection]:
        """A connection outside any workspace and any transaction.

        Each statement is a read-only transaction of its own, on a snapshot of the newest data. It
        may enter a workspace itself (`eventlog.connections.ENTERED`). Raises as `workspace`.
        """
        async with self._pool.connection() as connection:
            yield connection

    def statistics(self) -> dict[str, int]:
        """Size, use and queue of the pool, under psycopg's names."""
        return self._pool.get_stats()


@asynccontextmanager
async def _in_workspace(connection: AsyncConnection, workspace_id: UUID) -> AsyncIterator[None]:
    async with connection.transaction():
        await connection.execute(SET_WORKSPACE, (str(workspace_id),))
        yield


async def _configure(connection: psycopg.AsyncConnection[Any]) -> None:
    raw_json(connection)
    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
