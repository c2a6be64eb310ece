"""What the reader of the log is told: nothing stepped over, and of no workspace it did not name."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from psycopg.rows import TupleRow

from eventlog.connections import Connection, raw_json
from eventlog.reading.positions import last_position
from replay.facts import FactPage, read_news
from tests.support.databases import Urls

HERE, THERE = uuid4(), uuid4()


@pytest.fixture
def writer(urls: Urls) -> Iterator[Connection]:
    """A connection of the API's role, which commits when it is told to."""
    with psycopg.connect(urls.app) as connection:
        yield connection


def append(connection: Connection, workspace_id: UUID = HERE, count: int = 1) -> int:
    """Append some accounts without a commit; the last position."""
    events = [
        {
            "stream": str(uuid4()),
            "version": 1,
            "topic": "account.created",
            "account": None,
            "occurred": "2026-01-31T12:00:00Z",
            "data": {"fields": {"company": "Acme"}},
        }
        for _ in range(count)
    ]
    rows = connection.execute(
        "SELECT append_events(%s::uuid, %s::json, '{}'::json)",
        (workspace_id, orjson.dumps(events).decode()),
    )
    return int(rows.fetchall()[-1][0])


def asked(urls: Urls, ask: Any) -> Any:
    """What `ask` is answered on a connection like the reader's."""

    async def answer() -> Any:
        async with await psycopg.AsyncConnection.connect(urls.app, autocommit=True) as connection:
            raw_json(connection)
            return await ask(connection)

    return asyncio.run(answer())


def told(urls: Urls, known: int = 0, *followed: UUID, most: int = 100) -> tuple[list[int], int]:
    """The positions that are told after `known`, and how far the log was read."""

    def ask(connection: psycopg.AsyncConnection[TupleRow]) -> Coroutine[Any, Any, FactPage]:
        return read_news(connection, followed or (HERE,), known, most)

    facts: FactPage = asked(urls, ask)
    return [fact.position for fact in facts.facts], facts.upto


def test_a_writer_that_is_not_done_holds_back_what_came_after_it(
    urls: Urls, writer: Connection
) -> None:
    append(writer)
    writer.commit()
    late = append(writer)
    with psycopg.connect(urls.app) as other:
        last = append(other)
        other.commit()
        assert told(urls) == ([1], 1)
        assert asked(urls, last_position) == 1
        writer.commit()
    assert told(urls, 1) == ([late, last], last)
    assert asked(urls, last_position) == last


def test_a_gap_that_nobody_will_fill_is_passed(urls: Urls, writer: Connection) -> None:
    append(writer)
    writer.commit()
    append(writer, count=2)
    writer.rollback()
    assert told(urls, 1) == ([], 1), "no position is told that is not an event's"
    last = append(writer)
    writer.commit()
    assert last == 4
    assert told(urls, 1) == ([4], 4)


def test_many_are_read_in_parts(urls: Urls, writer: Connection) -> None:
    append(writer, count=5)
    writer.commit()
    assert told(urls, most=2) == ([1, 2], 2)
    assert told(urls, 2, most=2) == ([3, 4], 4)
    assert told(urls, 4, most=2) == ([5], 5)
    assert told(urls, 5, most=2) == ([], 5)


def test_of_workspaces_that_are_not_followed_only_the_position_is_told(
    urls: Urls, writer: Connection
) -> None:
    for workspace_id in (HERE, THERE, HERE):
        append(writer, workspace_id)
        writer.commit()
    assert told(urls, 0, HERE) == ([1, 3], 3)
    assert told(urls, 0, THERE) == ([2], 3)
    assert told(urls, 0, HERE, THERE) == ([1, 2, 3], 3)
    assert told(urls, 0, uuid4()) == ([], 3)


@pytest.mark.parametrize("function", ["last_event_position()", "workspaces_with_news(0, 1)"])
def test_only_the_api_may_ask_where_there_is_news(urls: Urls, function: str) -> None:
    with psycopg.connect(urls.app, autocommit=True) as connection:
        assert connection.execute(f"SELECT {function}".encode()).fetchone()
    with (
        psycopg.connect(urls.projector, autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(f"SELECT {function}".encode())
