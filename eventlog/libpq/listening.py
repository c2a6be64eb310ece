"""One prepared statement of a connection that also receives hints, close to libpq.

A query that comes rarely finds nothing of its code in the processor's caches. Then psycopg's own
`execute` takes twice the time of the query: it makes a cursor, converts parameters and rows, and
registers the socket with the event loop for each wait (ADR 16). This keeps it registered.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import generators
from psycopg.pq import ExecStatus
from psycopg.waiting import Ready, Wait

from eventlog.connections import AsyncConnection

NAME = "direct"
CLOSED = -1
"""In place of a descriptor."""

Rows = list[list[bytes]]
"""Rows of values as PostgreSQL writes them, empty where they are null."""


class DirectQuery:
    """Executes a prepared statement. Used in one event loop, by one task."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._on_hint: Callable[[], None] = lambda: None
        self._running: Generator[Any, Any, Any] | None = None
        self._done: asyncio.Future[list[Any]] | None = None
        self._socket = CLOSED

    @classmethod
    async def prepare(cls, connection: AsyncConnection, statement: str) -> DirectQuery:
        """Prepare a statement with parameters `$1` and so on. A connection has one of them."""
        await connection.execute(f"PREPARE {NAME} AS {statement}".encode())
        query = cls(connection)
        # Hints that arrive while the statement runs. The others come in `_receive`.
        connection.add_notify_handler(lambda _: query._on_hint())
        return query

    @contextmanager
    def receiving(self, on_hint: Callable[[], None]) -> Iterator[None]:
        """Receive hints, and allow `execute`, for the duration of the block.

        Nothing else may use the connection in it. `on_hint` is also called if the connection is
        lost, which the next `execute` raises.
        """
        loop = asyncio.get_running_loop()
        self._on_hint = on_hint
        # libpq closes its own descriptor when it finds that the connection is lost. Its number may
        # then be that of another connection, whose registration must not be taken for this one.
        self._socket = os.dup(self._connection.fileno())
        loop.add_reader(self._socket, self._receive)
        try:
            yield
        finally:
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            os.close(self._socket)
            self._socket = CLOSED
            self._on_hint = lambda: None

    async def execute(self, *values: str) -> Rows:
        """Execute the statement. Raises `psycopg.Error`."""
        self._pgconn.send_query_prepared(NAME.encode(), [each.encode() for each in values])
        self._running = generators.execute(self._pgconn)
        self._done = asyncio.get_running_loop().create_future()
        self._advance(None)
        *_, result = await self._done
        if result.status != ExecStatus.TUPLES_OK:
            raise psycopg.errors.error_from_result(result)
        columns = range(result.nfields)
        return [
            [result.get_value(row, column) or b"" for column in columns]
            for row in range(result.ntuples)
        ]

    def _register_again(self) -> None:
        if self._socket != CLOSED:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.add_reader(self._socket, self._receive)

    def _receive(self) -> None:
        """Continue the statement that runs, or take the hints that have arrived."""
        if self._running is not None:
            self._advance(Ready.R)
            return
        try:
            self._pgconn.consume_input()
            while self._pgconn.notifies():
                pass
        except psycopg.OperationalError:
            asyncio.get_running_loop().remove_reader(self._socket)  # it would be called for ever
        self._on_hint()

    def _advance(self, ready: Ready | None) -> None:
        """Continue the statement up to the next wait, or to its end."""
        assert self._running is not None
        assert self._done is not None
        loop = asyncio.get_running_loop()
        try:
            wait = self._running.send(ready)
        except StopIteration as end:
            self._running = None
            if not self._done.done():
                self._done.set_result(end.value)
        except psycopg.Error as error:
            self._running = None
            if not self._done.done():
                self._done.set_exception(error)
        else:
            if ready == Ready.R:
                # uvloop calls only once if the server has reset the connection, and then closes its
                # handle. If this call has received a last message, the reset is to be noticed.
                loop.call_soon(self._register_again)
            if wait & Wait.W:
                loop.add_writer(self._socket, self._advance, Ready.W)
            elif ready == Ready.W:
                loop.remove_writer(self._socket)
