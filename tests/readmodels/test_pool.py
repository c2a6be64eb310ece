"""Requests that wait for a connection of the pool for reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from psycopg_pool import PoolTimeout, TooManyRequests

from readmodels import pool
from readmodels.pool import ReadPool
from tests.support.databases import Urls

REQUESTS = 20


def with_pool(urls: Urls, work: Callable[[ReadPool], Awaitable[None]]) -> None:
    """Call an asynchronous function with a pool of two connections."""

    async def run() -> None:
        reads = ReadPool(urls.app, max_size=2)
        await reads.open()
        try:
            await work(reads)
        finally:
            await reads.close()

    asyncio.run(run())


async def occupy(reads: ReadPool, release: asyncio.Event) -> list[asyncio.Task[None]]:
    """Take both connections until the event is set."""

    async def hold(taken: asyncio.Event) -> None:
        async with reads.plain():
            taken.set()
            await release.wait()

    taken = [asyncio.Event(), asyncio.Event()]
    holding = [asyncio.create_task(hold(each)) for each in taken]
    for each in taken:
        await each.wait()
    return holding


def test_requests_are_served_in_order(urls: Urls) -> None:
    served: list[int] = []

    async def work(reads: ReadPool) -> None:
        release = asyncio.Event()
        holding = await occupy(reads, release)

        async def ask(number: int) -> None:
            async with reads.plain() as connection:
                served.append(number)
                await connection.execute("SELECT 1")

        waiting = [asyncio.create_task(ask(number)) for number in range(REQUESTS)]
        await asyncio.sleep(0)  # the others begin to wait
        assert reads.statistics()["requests_waiting"] == REQUESTS
        release.set()
        await asyncio.gather(*holding, *waiting)
        statistics = reads.statistics()
        assert statistics["requests_waiting"] == 0
        assert statistics["requests_queued"] >= REQUESTS
        assert statistics["requests_num"] == REQUESTS + 2
        assert statistics["pool_size"] == 2

    with_pool(urls, work)
    assert served == list(range(REQUESTS))


def test_request_waits_for_a_limited_time(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "READ_POOL_WAIT_S", 0.05)

    async def work(reads: ReadPool) -> None:
        release = asyncio.Event()
        holding = await occupy(reads, release)
        with pytest.raises(PoolTimeout):
            await asyncio.wait_for(_ask(reads), 10)
        assert reads.statistics()["requests_errors"] == 1
        release.set()
        await asyncio.gather(*holding)
        await _ask(reads)

    with_pool(urls, work)


def test_too_many_waiting_requests_are_refused(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "READ_POOL_QUEUE_MAX", 1)

    async def work(reads: ReadPool) -> None:
        release = asyncio.Event()
        holding = await occupy(reads, release)
        waiting = asyncio.create_task(_ask(reads))
        await asyncio.sleep(0)  # the others begin to wait
        with pytest.raises(TooManyRequests):
            await _ask(reads)
        release.set()
        await asyncio.gather(*holding, waiting)

    with_pool(urls, work)


def test_cancelled_request_leaves_its_place(urls: Urls) -> None:
    async def work(reads: ReadPool) -> None:
        release = asyncio.Event()
        holding = await occupy(reads, release)
        waiting = [asyncio.create_task(_ask(reads)) for _ in range(3)]
        await asyncio.sleep(0)  # the others begin to wait
        waiting[0].cancel()
        release.set()
        await asyncio.gather(*holding, *waiting[1:])
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        for _ in range(3):
            await _ask(reads)

    with_pool(urls, work)


async def _ask(reads: ReadPool) -> None:
    async with reads.plain() as connection:
        await connection.execute("SELECT 1")
