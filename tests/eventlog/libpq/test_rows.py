"""Statements that are prepared once for each connection, in a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from eventlog.connections import AsyncConnection
from eventlog.libpq import rows
from eventlog.libpq.rows import Statement
from readmodels.pool import ReadPool
from tests.support.databases import Urls

Work = Callable[[ReadPool, AsyncConnection], Awaitable[Any]]

PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'annals_%'"
ECHO = "SELECT %(text)s::text, %(number)s::int + 1, %(text)s::text || '%%', NULL"
SLEEP = "SELECT pg_sleep(%(seconds)s::float8)::text"


@pytest.fixture
def run(urls: Urls) -> Callable[[Work], Any]:
    """Return a function that calls another with a pool of one connection, and with that."""

    def run(work: Work) -> Any:
        async def in_pool() -> Any:
            pool = ReadPool(urls.app, max_size=1)
            await pool.open()
            try:
                async with pool.plain() as connection:
                    return await work(pool, connection)
            finally:
                await pool.close()

        return asyncio.run(in_pool())

    return run


async def prepared(connection: AsyncConnection) -> int:
    row = await (await connection.execute(PREPARED)).fetchone()
    assert row is not None
    return int(row[0])


def test_values_are_text(run: Callable[[Work], Any]) -> None:
    async def ask(_pool: ReadPool, connection: AsyncConnection) -> Any:
        return await Statement(ECHO).fetch_row(connection, {"number": 41, "text": "É%"})

    assert run(ask) == ["É%".encode(), b"42", "É%%".encode(), None]


def test_parameters_by_position_and_several_rows(run: Callable[[Work], Any]) -> None:
    statement = Statement("SELECT n, %s::text || '%%' FROM generate_series(1, %s::int) AS n")

    async def ask(_pool: ReadPool, connection: AsyncConnection) -> Any:
        found = [await statement.fetch(connection, values) for values in (("é", 2), (b"x", 1))]
        async with connection.transaction():
            found.append(await statement.fetch(connection, (None, 1)))
        return [*found, await statement.fetch(connection, ("é", 0))]

    both = [[b"1", "é%".encode()], [b"2", "é%".encode()]]
    assert run(ask) == [both, [[b"1", b"x%"]], [[b"1", None]], []]


def test_statement_is_prepared_once(run: Callable[[Work], Any]) -> None:
    async def ask(_pool: ReadPool, connection: AsyncConnection) -> int:
        statement = Statement(ECHO)
        for number in range(20):
            await statement.fetch_row(connection, {"number": number, "text": None})
        return await prepared(connection)

    assert run(ask) == 1


def test_no_row_is_none(run: Callable[[Work], Any]) -> None:
    async def ask(_pool: ReadPool, connection: AsyncConnection) -> Any:
        return await Statement("SELECT 1 WHERE false").fetch_row(connection, {})

    assert run(ask) is None


def test_connection_keeps_a_limited_number_of_statements(
    run: Callable[[Work], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PREPARED_MAX", 3)

    async def ask(_pool: ReadPool, connection: AsyncConnection) -> int:
        frequent = Statement("SELECT 'frequent'")
        for number in range(10):
            assert await Statement(f"SELECT {number}").fetch_row(connection, {}) == [
                str(number).encode()
            ]
            assert await frequent.fetch_row(connection, {}) == [b"frequent"]
        return await prepared(connection)

    assert run(ask) == 3


@pytest.mark.parametrize(
    ("text", "number", "error"),
    [
        ("SELECT 1 / %(number)s::int", "0", psycopg.errors.DivisionByZero),
        ("SELECT %(number)s::int", "x", psycopg.DataError),
        ("SELECT %(number)s::text", "a\0b", psycopg.DataError),
        ("SELECT nothing, %(number)s::int", "1", psycopg.errors.UndefinedColumn),
    ],
)
def test_errors_are_those_of_psycopg(
    text: str, number: str, error: type[Exception], run: Callable[[Work], Any]
) -> None:
    async def ask(_pool: ReadPool, connection: AsyncConnection) -> Any:
        statement = Statement(text)
        for _ in range(3):
            with pytest.raises(error):
                await statement.fetch_row(connection, {"number": number})
        return await Statement("SELECT 7").fetch_row(connection, {})

    assert run(ask) == [b"7"]


def test_statement_works_after_a_rollback_and_in_a_transaction(run: Callable[[Work], Any]) -> None:
    """psycopg deallocates all statements of a connection if it rolls back and has prepared any."""
    found = []

    async def ask(_pool: ReadPool, connection: AsyncConnection) -> int:
        statement, other = Statement("SELECT 7"), Statement("SELECT 8")
        for _ in range(3):
            found.append(await statement.fetch_row(connection, {}))
            found.append(await other.fetch_row(connection, {}))
            await connection.execute("SELECT 1", prepare=True)
            async with connection.transaction():
                found.append(await statement.fetch_row(connection, {}))
                raise psycopg.Rollback
            async with connection.transaction():
                found.append(await other.fetch_row(connection, {}))
        return await prepared(connection)

    assert run(ask) == 0
    assert found == [[b"7"], [b"8"], [b"7"], [b"8"]] * 3


@pytest.mark.parametrize("is_prepared", [True, False])
def test_cancelled_statement_leaves_the_connection_usable(
    is_prepared: bool, run: Callable[[Work], Any]
) -> None:
    async def ask(_pool: ReadPool, connection: AsyncConnection) -> Any:
        statement = Statement(SLEEP)
        if is_prepared:
            await statement.fetch_row(connection, {"seconds": 0})
        task = asyncio.create_task(statement.fetch_row(connection, {"seconds": 60}))
        await asyncio.sleep(0.05)  # the statement has begun
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await statement.fetch_row(connection, {"seconds": 0})

    assert run(ask) == [b""]


def test_lost_connection_is_replaced(urls: Urls, run: Callable[[Work], Any]) -> None:
    statement = Statement("SELECT pg_backend_pid()")

    async def ask(pool: ReadPool, connection: AsyncConnection) -> Any:
        first = await statement.fetch_row(connection, {})
        with psycopg.connect(urls.superuser, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            await statement.fetch_row(connection, {})
        return first

    assert run(ask)
