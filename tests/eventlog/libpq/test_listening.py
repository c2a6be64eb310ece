"""DirectQuery: one prepared statement and hints on one connection of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from eventlog.hints import APPENDED, Hinter, listen
from eventlog.libpq.listening import DirectQuery
from tests.support.databases import Urls

LENGTH = "SELECT length($1::text), nullif($1, '')"
WAIT_S = 60.0
BYTES = 16 * 2**20


def call(urls: Urls, statement: str, act: Callable[[DirectQuery], Awaitable[None]]) -> None:
    """Prepare the statement on a connection that listens, and call `act` in an event loop."""

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(urls.app, autocommit=True) as connection:
            query = await DirectQuery.prepare(connection, statement)
            await listen(connection, APPENDED)
            await asyncio.wait_for(act(query), WAIT_S)

    asyncio.run(run())


def test_statement_is_executed_again_and_again(urls: Urls) -> None:
    async def act(query: DirectQuery) -> None:
        with query.receiving(lambda: None):
            assert await query.execute("abc") == [[b"3", b"abc"]]
            assert await query.execute("") == [[b"0", b""]]

    call(urls, LENGTH, act)


def test_parameter_larger_than_the_buffers_of_the_socket_arrives_whole(urls: Urls) -> None:
    async def act(query: DirectQuery) -> None:
        with query.receiving(lambda: None):
            rows = await query.execute("x" * BYTES)
            assert rows[0][0] == str(BYTES).encode()
            assert await query.execute("abc") == [[b"3", b"abc"]]

    call(urls, LENGTH, act)


def test_refused_statement_raises_and_the_next_one_is_executed(urls: Urls) -> None:
    async def act(query: DirectQuery) -> None:
        with query.receiving(lambda: None):
            with pytest.raises(psycopg.errors.DivisionByZero):
                await query.execute("0")
            assert await query.execute("2") == [[b"5"]]

    call(urls, "SELECT 10 / $1::integer", act)


def test_hints_are_received_between_and_during_statements(urls: Urls) -> None:
    async def act(query: DirectQuery) -> None:
        hinted = asyncio.Event()
        hinter = Hinter(urls.app)
        try:
            with query.receiving(hinted.set):
                hinter.hint()
                await hinted.wait()
                hinted.clear()
                executed = asyncio.create_task(query.execute("0.5"))
                await asyncio.sleep(0)  # the statement is sent
                hinter.hint()
                await executed
                await hinted.wait()
        finally:
            hinter.close()

    call(urls, "SELECT pg_sleep($1::float)", act)


def test_lost_connection_is_reported_and_raised(urls: Urls) -> None:
    async def act(query: DirectQuery) -> None:
        hinted = asyncio.Event()
        with query.receiving(hinted.set):
            rows = await query.execute("0")
            with psycopg.connect(urls.superuser, autocommit=True) as superuser:
                superuser.execute("SELECT pg_terminate_backend(%s)", (int(rows[0][0]),))
            await hinted.wait()
            with pytest.raises(psycopg.OperationalError):
                await query.execute("0")

    call(urls, "SELECT pg_backend_pid() + $1::integer", act)
