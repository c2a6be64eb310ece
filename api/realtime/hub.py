"""The hub: admits subscribers, sends them history and then live facts, and ends their streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from uuid import UUID

import psycopg
from eventsourcing.persistence import PersistenceError
from psycopg_pool import PoolTimeout, TooManyRequests

from api.http.auth import Authenticator, Caller
from api.realtime.read_tables import ReadTableProgress
from api.realtime.reader import LogReader, ReaderCallbacks
from api.realtime.subscriber import CloseReason, Interest, Subscriber
from api.realtime.transport import OPEN, Transport
from eventlog.reading.positions import taken_position
from readmodels.pool import ReadPool
from replay.facts import FactPage, read_history
from runtime import codes
from runtime.errors import ApiError
from runtime.settings import Settings

log = logging.getLogger(__name__)

JOIN_WAIT_S = 5.0
"""Maximum seconds that a new subscriber waits until the log is being read."""
HISTORY_READERS_MAX = 4
"""Maximum number of subscribers that read history at once, so that requests keep connections."""

UNREACHABLE = (psycopg.Error, PoolTimeout, TooManyRequests, PersistenceError, OSError)


class Hub:
    """Sends subscribers the facts of their workspace. Used in the event loop only.

    A subscriber first reads history in pages at its own pace and then becomes live: it receives
    what the log reader reads. It becomes live when it has everything that the reader has delivered,
    without an await in between, so no fact is lost or sent twice.
    """

    def __init__(
        self,
        app_url: str,
        reads: ReadPool,
        read_tables: ReadTableProgress,
        authenticator: Authenticator,
        settings: Settings,
    ) -> None:
        self._reads = reads
        self._read_tables = read_tables
        self._authenticator = authenticator
        self._settings = settings
        self._subscribers: set[Subscriber] = set()
        self._live: dict[UUID, set[Subscriber]] = {}
        self._followed: Counter[UUID] = Counter()
        self._by_key: Counter[UUID] = Counter()
        self._history = asyncio.Semaphore(HISTORY_READERS_MAX)
        self._is_closed = False
        self._tasks: list[asyncio.Task[None]] = []
        self._reader = LogReader(
            app_url,
            ReaderCallbacks(
                followed=lambda: list(self._followed),
                deliver=self._deliver,
                reset=lambda: self._end_all(CloseReason.RESET),
            ),
            poll_interval_s=settings.poll_interval_ms / 1000,
        )
        self._facts_sent = 0
        self._too_slow = 0

    async def start(self) -> None:
        """Start the background tasks. The log is read once there is a subscriber."""
        self._read_tables.on_advance(lambda: self._notify_ready(self._subscribers))
        await self._reader.start()
        heartbeats = self._repeat(self._settings.realtime_heartbeat_s, self._send_heartbeats)
        checks = self._repeat(self._settings.realtime_key_check_s, self._check_keys)
        self._tasks = [asyncio.create_task(heartbeats), asyncio.create_task(checks)]

    def hint(self) -> None:
        """Report that this process appended to the log. Thread-safe."""
        self._reader.hint()

    async def stop(self) -> None:
        """End all streams and stop reading."""
        self.close()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._reader.stop()

    def close(self) -> None:
        """End all streams and admit no new subscribers, because the server stops."""
        self._is_closed = True
        self._end_all(CloseReason.SHUTDOWN)

    def statistics(self) -> Mapping[str, int]:
        """Return current subscribers, streams ended as too slow, and facts sent. For metrics."""
        ending = sum(each.ended is CloseReason.SLOW for each in list(self._subscribers))
        return {
            "subscribers": len(self._subscribers),
            "cut_off": self._too_slow + ending,
            "facts": self._facts_sent,
        }

    @contextmanager
    def admitted(self, interest: Interest, transport: Transport) -> Iterator[Subscriber]:
        """Admit a subscriber for the duration of the block.

        Raises 503 (E3010, E3011) and 429 (E2112, E2113).
        """
        self._require_capacity(interest)
        subscriber = Subscriber(interest, transport, self._settings.realtime_queue_max)
        workspace_id, key_id = interest.wanted.workspace_id, subscriber.key_id
        self._subscribers.add(subscriber)
        self._followed[workspace_id] += 1
        self._by_key[key_id] += 1
        self._reader.start_following()
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)
            self._remove_live(workspace_id, subscriber)
            self._too_slow += subscriber.ended is CloseReason.SLOW
            for counter, counted in ((self._followed, workspace_id), (self._by_key, key_id)):
                counter[counted] -= 1
                if not counter[counted]:
                    del counter[counted]

    async def join(self, subscriber: Subscriber) -> None:
        """Set the position at which the stream begins.

        Raises 409 (E2111), and 503 (E3001) if the log cannot be read.
        """
        try:
            await self._reader.wait_until_reading(JOIN_WAIT_S)
        except TimeoutError:
            raise ApiError(codes.DATABASE_UNREACHABLE) from None
        after = subscriber.interest.after
        if after is not None and after > self._reader.position:
            async with self._reads.plain() as connection:
                taken = await taken_position(connection)
            if after > taken:
                raise ApiError(codes.POSITION_AHEAD, lastEventId=after, lastPosition=taken)
        subscriber.start_at(self._reader.position if after is None else after)
        subscriber.enqueue(subscriber.transport.at(OPEN, subscriber.after, is_resumable=True))
        self._read_tables.notify_ready(subscriber)
        self._go_live_if_caught_up(subscriber)

    async def stream(self, subscriber: Subscriber) -> AsyncIterator[Sequence[bytes]]:
        """Yield frames in groups until the client disconnects or the server ends the stream."""
        try:
            while not subscriber.is_live and subscriber.ended is None:
                yield subscriber.drain()
                await self._read_history(subscriber)
        except UNREACHABLE as error:
            log.warning("the history for a subscriber cannot be read: %s", error)
            subscriber.end(CloseReason.UNAVAILABLE)
        while frames := await subscriber.take():
            yield frames
        assert subscriber.ended is not None
        yield [subscriber.transport.end(subscriber.ended)]

    async def _read_history(self, subscriber: Subscriber) -> None:
        wanted, upto = subscriber.interest.wanted, self._reader.position
        async with self._history, self._reads.workspace(wanted.workspace_id) as connection:
            page = await read_history(connection, wanted, subscriber.after, upto)
        for fact in page.facts:
            subscriber.deliver(fact)
        if page.upto > subscriber.after:
            subscriber.after = page.upto
            if subscriber.interest.facts:
                # The position skips unwanted facts, so a reconnection need not read them again.
                subscriber.enqueue(subscriber.transport.heartbeat(page.upto))
        self._read_tables.notify_ready(subscriber)
        self._go_live_if_caught_up(subscriber)

    def _go_live_if_caught_up(self, subscriber: Subscriber) -> None:
        if subscriber.after >= self._reader.position:
            subscriber.is_live = True
            workspace_id = subscriber.interest.wanted.workspace_id
            self._live.setdefault(workspace_id, set()).add(subscriber)

    def _remove_live(self, workspace_id: UUID, subscriber: Subscriber) -> None:
        if (live := self._live.get(workspace_id)) is not None:
            live.discard(subscriber)
            if not live:
                del self._live[workspace_id]

    def _deliver(self, page: FactPage) -> None:
        for fact in page.facts:
            for subscriber in self._live.get(fact.workspace_id, ()):
                subscriber.deliver(fact)
        self._facts_sent += len(page.facts)
        # The read tables may have had these facts before the reader; no checkpoint advances then.
        for workspace_id in {fact.workspace_id for fact in page.facts}:
            self._notify_ready(self._live.get(workspace_id, ()))

    def _notify_ready(self, subscribers: Iterable[Subscriber]) -> None:
        for subscriber in subscribers:
            if subscriber.pending:
                self._read_tables.notify_ready(subscriber)

    def _require_capacity(self, interest: Interest) -> None:
        limit = self._settings.realtime_subscribers_max
        limit_of_key = self._settings.realtime_subscribers_per_key_max
        limit_of_workspace = self._settings.realtime_subscribers_per_workspace_max
        if self._is_closed:
            raise ApiError(codes.SHUTTING_DOWN)
        if len(self._subscribers) >= limit:
            raise ApiError(codes.TOO_MANY_SUBSCRIBERS, max=limit)
        if self._by_key[interest.caller.key_id] >= limit_of_key:
            raise ApiError(codes.TOO_MANY_SUBSCRIBERS_OF_KEY, max=limit_of_key)
        if self._followed[interest.wanted.workspace_id] >= limit_of_workspace:
            raise ApiError(codes.TOO_MANY_SUBSCRIBERS_OF_WORKSPACE, max=limit_of_workspace)

    def _end_all(self, reason: CloseReason) -> None:
        for subscriber in self._subscribers:
            subscriber.end(reason)

    async def _repeat(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await act()

    async def _send_heartbeats(self) -> None:
        for subscriber in self._subscribers:
            subscriber.send_heartbeat(self._reader.position)

    async def _check_keys(self) -> None:
        """End the streams whose API keys are no longer valid."""
        callers = {each.interest.caller for each in self._subscribers}
        for caller in callers:
            try:
                is_valid = await self._authenticator.is_still_valid(caller)
            except UNREACHABLE as error:
                log.warning("the API keys of subscribers cannot be checked: %s", error)
                return
            if not is_valid:
                self._end_streams_of(caller)

    def _end_streams_of(self, caller: Caller) -> None:
        for subscriber in self._subscribers:
            if subscriber.interest.caller == caller:
                subscriber.end(CloseReason.KEY)
