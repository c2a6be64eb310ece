"""The log reader of a process: reads new facts for all subscribers after each hint."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow

from eventlog.connections import CONNECT_TIMEOUT_S, server_settings
from eventlog.hints import APPENDED, listen, unlisten
from eventlog.libpq.listening import DirectQuery
from eventlog.reading.positions import last_position, taken_position
from replay.facts import FactPage, prepare_news, read_news

log = logging.getLogger(__name__)

NEWS_MAX = 500
"""Maximum number of events in one reading; the next one follows immediately if there are more."""
READ_INTERVAL_S = 0.002
"""Minimum seconds between the starts of two readings, so that appends share one."""
RECONNECT_DELAY_S = 0.3
STATEMENT_TIMEOUT_MS = 10_000

AsyncConnection = psycopg.AsyncConnection[TupleRow]


@dataclass(frozen=True)
class ReaderCallbacks:
    """What the reader calls."""

    followed: Callable[[], Sequence[UUID]]
    """Returns the workspaces whose events are wanted; without any, nothing is read."""
    deliver: Callable[[FactPage], None]
    """Called with new facts."""
    reset: Callable[[], None]
    """Called when the log has become shorter, so it must be another log."""


class LogReader:
    """Follows the log, from its end at the time when the first workspace was followed.

    Used in the event loop only. After a lost connection it reconnects and resumes.
    """

    def __init__(self, app_url: str, callbacks: ReaderCallbacks, *, poll_interval_s: float) -> None:
        self._url = app_url
        self._callbacks = callbacks
        self._poll_interval_s = poll_interval_s
        self.position = 0
        """The position up to which the events of followed workspaces were delivered."""
        self._is_following = asyncio.Event()
        self._is_wanted = asyncio.Event()
        self._reading: asyncio.Future[None] | None = None
        self._hinted = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start reading in a task of the running loop."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._run(), name="realtime-reader")

    async def stop(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def start_following(self) -> None:
        """Start reading, because a workspace is followed now."""
        self._is_wanted.set()

    def hint(self) -> None:
        """Report that this process appended to the log. Thread-safe; never fails.

        It has the effect of a NOTIFY, without the delay of two hops between processes.
        """
        if self._loop is not None and self._is_following.is_set():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._hinted.set)

    async def wait_until_reading(self, timeout_s: float) -> None:
        """Wait for a reading that began before this call.

        Every later reading includes the workspaces followed now, so they miss nothing after
        `position`. Raises `TimeoutError` if the log cannot be read.
        """
        async with asyncio.timeout(timeout_s):
            await self._is_following.wait()
            if self._reading is not None:
                await asyncio.shield(self._reading)

    async def _run(self) -> None:
        while True:
            try:
                await self._connect_and_follow()
            except (psycopg.Error, OSError) as error:
                log.warning("the log cannot be followed, reconnecting: %s", error)
            except Exception:
                # Without this task, all subscribers would wait for ever.
                log.exception("the log cannot be followed, reconnecting")
            await asyncio.sleep(RECONNECT_DELAY_S)

    async def _connect_and_follow(self) -> None:
        async with await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="annals-realtime",
            options=server_settings(TimeZone="UTC", statement_timeout=STATEMENT_TIMEOUT_MS),
        ) as connection:
            news = await prepare_news(connection)
            if self._is_following.is_set() and await taken_position(connection) < self.position:
                self._is_following.clear()
                self._callbacks.reset()
            while True:
                if not self._callbacks.followed():
                    await self._wait_for_subscribers(connection)
                await listen(connection, APPENDED)
                if not self._is_following.is_set():
                    self.position = await last_position(connection)
                    self._is_following.set()
                await self._follow(news)

    async def _wait_for_subscribers(self, connection: AsyncConnection) -> None:
        """Wait until a workspace is followed, without receiving hints meanwhile."""
        self._is_following.clear()
        self._is_wanted.clear()
        await unlisten(connection)
        await self._is_wanted.wait()

    async def _follow(self, news: DirectQuery) -> None:
        with news.receiving(self._hinted.set):
            while followed := self._callbacks.followed():
                position_before, started_s = self.position, time.monotonic()
                self._hinted.clear()
                await self._read(news, followed)
                if self.position - position_before < NEWS_MAX:
                    await self._wait_for_hint()
                    await asyncio.sleep(started_s + READ_INTERVAL_S - time.monotonic())

    async def _wait_for_hint(self) -> None:
        """Wait for a hint, at most the poll interval."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_interval_s):
                await self._hinted.wait()

    async def _read(self, news: DirectQuery, followed: Sequence[UUID]) -> None:
        self._reading = asyncio.get_running_loop().create_future()
        try:
            page = await read_news(news, followed, self.position, NEWS_MAX)
            self.position = page.upto
            self._callbacks.deliver(page)
        finally:
            self._reading.set_result(None)
            self._reading = None
