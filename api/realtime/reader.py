"""The one reader of the log in a process: from a hint to the facts, for all who follow."""

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

from eventlog.connections import CONNECT_TIMEOUT_S, raw_json, server_settings
from eventlog.hints import APPENDED
from eventlog.reading.positions import last_position, taken_position
from replay.facts import FactPage, news

log = logging.getLogger(__name__)

NEWS_MAX = 500
"""Events looked at by one reading; more are read by the next one, at once."""
READ_INTERVAL_S = 0.002
"""Least time between the beginnings of two readings: what is appended meanwhile shares one."""
RECONNECT_DELAY_S = 0.3
STATEMENT_TIMEOUT_MS = 10_000

AsyncConnection = psycopg.AsyncConnection[TupleRow]


@dataclass(frozen=True)
class Listeners:
    """What the reader asks and tells."""

    followed: Callable[[], Sequence[UUID]]
    """The workspaces whose events are wanted; while there are none, nothing is read."""
    deliver: Callable[[FactPage], None]
    reset: Callable[[], None]
    """The log is shorter than it was: not the same one."""


class LogReader:
    """Follows the log from the event that was last when somebody began to follow.

    Lives in the event loop. A lost connection is made anew, and reading goes on where it was.
    """

    def __init__(self, app_url: str, listeners: Listeners, *, poll_interval_s: float) -> None:
        self._url = app_url
        self._listeners = listeners
        self._poll_interval_s = poll_interval_s
        self.position = 0
        """Of an event: all up to here were delivered, as far as their workspace was followed."""
        self._following = asyncio.Event()
        self._wanted = asyncio.Event()
        self._reading: asyncio.Future[None] | None = None
        self._hinted = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, in a task of the running loop."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._run(), name="realtime-reader")

    async def stop(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def want(self) -> None:
        """Somebody follows a workspace now: read, if nothing was read so far."""
        self._wanted.set()

    def hint(self) -> None:
        """Somebody appended in this process. From any thread; never fails.

        The same as a NOTIFY, and two hops between processes sooner.
        """
        if self._loop is not None and self._following.is_set():
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._hinted.set)

    async def joined(self, timeout_s: float) -> None:
        """Return when every reading that ends from now on began after this call.

        Then a workspace that was followed before the call misses nothing after `position`.
        Raises `TimeoutError` where the log cannot be read.
        """
        async with asyncio.timeout(timeout_s):
            await self._following.wait()
            if self._reading is not None:
                await asyncio.shield(self._reading)

    async def _run(self) -> None:
        while True:
            try:
                await self._work()
            except (psycopg.Error, OSError) as error:
                log.warning("the log is not followed for now: %s", error)
                await asyncio.sleep(RECONNECT_DELAY_S)

    async def _work(self) -> None:
        async with await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="annals-realtime",
            options=server_settings(TimeZone="UTC", statement_timeout=STATEMENT_TIMEOUT_MS),
        ) as connection:
            raw_json(connection)
            connection.add_notify_handler(lambda _: self._hinted.set())  # what comes while it reads
            if self._following.is_set() and await taken_position(connection) < self.position:
                self._following.clear()
                self._listeners.reset()
            while True:
                if not self._listeners.followed():
                    await self._rest(connection)
                await connection.execute(f"LISTEN {APPENDED}")
                if not self._following.is_set():
                    self.position = await last_position(connection)
                    self._following.set()
                await self._follow(connection)

    async def _rest(self, connection: AsyncConnection) -> None:
        """Wait until somebody follows. Hints are not listened to: each would cost a little."""
        self._following.clear()
        self._wanted.clear()
        await connection.execute("UNLISTEN *")
        await self._wanted.wait()

    async def _follow(self, connection: AsyncConnection) -> None:
        while followed := self._listeners.followed():
            before, began_s = self.position, time.monotonic()
            self._hinted.clear()
            await self._read(connection, followed)
            if self.position - before < NEWS_MAX:
                await self._hint(connection)
                await asyncio.sleep(began_s + READ_INTERVAL_S - time.monotonic())

    async def _hint(self, connection: AsyncConnection) -> None:
        """Wait for a hint, but no longer than a poll.

        Not for a notification: that something can be read from the server is enough, and taking it
        apart is left to the reading of the news, which is sent at once.
        """
        loop, server = asyncio.get_running_loop(), connection.fileno()
        loop.add_reader(server, self._hinted.set)
        try:
            async with asyncio.timeout(self._poll_interval_s):
                await self._hinted.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(server)

    async def _read(self, connection: AsyncConnection, followed: Sequence[UUID]) -> None:
        self._reading = asyncio.get_running_loop().create_future()
        try:
            facts = await news(connection, followed, self.position, NEWS_MAX)
            self.position = facts.upto
            self._listeners.deliver(facts)
        finally:
            self._reading.set_result(None)
            self._reading = None
