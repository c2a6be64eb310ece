"""Facts read from the log: no position is skipped, and only named workspaces are read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from psycopg.rows import TupleRow

from eventlog.connections import Connection, raw_json
from eventlog.reading.positions import last_position
from replay.facts import FactPage, prepare_news, read_news
from tests.support.databases import Urls

HERE, THERE = uuid4(), uuid4()


@pytest.fixture
def writer(urls: Urls) -> Iterator[Connection]:
    """Connect as the API's role, without autocommit."""
    with psycopg.connect(urls.app) as connection:
        yield connection


def append(connection: Connection, workspace_id: UUID = HERE, count: int = 1) -> int:
    """Append accounts without a commit; return the last position."""
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


def call_as_reader(urls: Urls, read: Any) -> Any:
    """Call `read` with a connection like the reader's; return its result."""

    async def call() -> Any:
        async with await psycopg.AsyncConnection.connect(urls.app, autocommit=True) as connection:
            raw_json(connection)
            return await read(connection)

    return asyncio.run(call())


def read(urls: Urls, known: int = 0, *followed: UUID, limit: int = 100) -> tuple[list[int], int]:
    """Return the positions of facts after `known`, and the position up to which was read."""

    async def read_page(connection: psycopg.AsyncConnection[TupleRow]) -> FactPage:
        query = await prepare_news(connection)
        with query.receiving(lambda: None):
            return await read_news(query, followed or (HERE,), known, limit)

    page: FactPage = call_as_reader(urls, read_page)
    return [fact.position for fact in page.facts], page.upto


def test_open_write_holds_back_later_facts(urls: Urls, writer: Connection) -> None:
    append(writer)
    writer.commit()
    late = append(writer)
    with psycopg.connect(urls.app) as other:
        last = append(other)
        other.commit()
        assert read(urls) == ([1], 1)
        assert call_as_reader(urls, last_position) == 1
        writer.commit()
    assert read(urls, 1) == ([late, last], last)
    assert call_as_reader(urls, last_position) == last


def test_gap_of_rolled_back_write_is_passed(urls: Urls, writer: Connection) -> None:
    append(writer)
    writer.commit()
    append(writer, count=2)
    writer.rollback()
    assert read(urls, 1) == ([], 1), "a position without an event was reported"
    last = append(writer)
    writer.commit()
    assert last == 4
    assert read(urls, 1) == ([4], 4)


def test_many_facts_are_read_in_pages(urls: Urls, writer: Connection) -> None:
    append(writer, count=5)
    writer.commit()
    assert read(urls, limit=2) == ([1, 2], 2)
    assert read(urls, 2, limit=2) == ([3, 4], 4)
    assert read(urls, 4, limit=2) == ([5], 5)
    assert read(urls, 5, limit=2) == ([], 5)


def test_facts_of_other_workspaces_only_advance_the_position(
    urls: Urls, writer: Connection
) -> None:
    for workspace_id in (HERE, THERE, HERE):
        append(writer, workspace_id)
        writer.commit()
    assert read(urls, 0, HERE) == ([1, 3], 3)
    assert read(urls, 0, THERE) == ([2], 3)
    assert read(urls, 0, HERE, THERE) == ([1, 2, 3], 3)
    assert read(urls, 0, uuid4()) == ([], 3)


@pytest.mark.parametrize("function", ["last_event_position()", "workspaces_with_news(0, 1)"])
def test_only_api_role_may_call_news_functions(urls: Urls, function: str) -> None:
    with psycopg.connect(urls.app, autocommit=True) as connection:
        assert connection.execute(f"SELECT {function}".encode()).fetchone()
    with (
        psycopg.connect(urls.projector, autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(f"SELECT {function}".encode())
