"""All who follow changes through this process: let in, caught up, told, and let go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import UUID

import psycopg
from eventsourcing.persistence import PersistenceError
from psycopg_pool import PoolTimeout, TooManyRequests

from api.http.auth import Authenticator, Caller
from api.realtime.reader import Listeners, LogReader
from api.realtime.subscriber import CloseReason, Interest, Subscriber
from api.realtime.tables import Tables
from api.realtime.wire import OPEN, Wire
from eventlog.reading.positions import taken_position
from readmodels.pool import ReadPool
from replay.facts import FactPage, history
from runtime import codes
from runtime.errors import ApiError
from runtime.settings import Settings

log = logging.getLogger(__name__)

JOIN_WAIT_S = 5.0
"""How long a new subscriber waits until the log is read."""
HISTORY_READERS_MAX = 4
"""Subscribers that read history at the same moment; the others wait, and so do no requests."""

OnEnd = Callable[[], Awaitable[None]]

UNREACHABLE = (psycopg.Error, PoolTimeout, TooManyRequests, PersistenceError, OSError)


class Hub:
    """Tells subscribers of the facts of their workspace. Lives in the event loop.

    A subscriber is in one of two states: it reads history in pages at its own pace, or it is live
    and gets what the reader reads. It goes live at the moment at which it has heard all that the
    reader has delivered, between two steps of the loop: nothing is lost and nothing comes twice.
    """

    def __init__(
        self,
        app_url: str,
        reads: ReadPool,
        tables: Tables,
        authenticator: Authenticator,
        settings: Settings,
    ) -> None:
        self._reads = reads
        self._tables = tables
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
            Listeners(self._workspaces, self._deliver, lambda: self._end_all(CloseReason.RESET)),
            poll_interval_s=settings.poll_interval_ms / 1000,
        )
        self._facts_told = 0
        self._cut_off = 0

    async def start(self) -> None:
        """Begin to read once somebody follows."""
        self._tables.listen(self._tables_moved)
        await self._reader.start()
        beats = self._every(self._settings.realtime_heartbeat_s, self._beat)
        checks = self._every(self._settings.realtime_key_check_s, self._check_keys)
        self._tasks = [asyncio.create_task(beats), asyncio.create_task(checks)]

    def hint(self) -> None:
        """Somebody appended in this process. From any thread."""
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
        """The server stops: end all streams, begin no new ones."""
        self._is_closed = True
        self._end_all(CloseReason.SHUTDOWN)

    def statistics(self) -> Mapping[str, int]:
        """Subscribers now; those cut off and facts told so far. For metrics."""
        being_cut_off = sum(each.ended is CloseReason.SLOW for each in list(self._subscribers))
        return {
            "subscribers": len(self._subscribers),
            "cut_off": self._cut_off + being_cut_off,
            "facts": self._facts_told,
        }

    @contextmanager
    def admitted(self, interest: Interest, wire: Wire) -> Iterator[Subscriber]:
        """A subscriber, for as long as the block lasts. Raises 503 (E3010, E3011), 429 (E2112)."""
        self._require_room(interest.caller)
        subscriber = Subscriber(interest, wire, self._settings.realtime_queue_max)
        workspace_id, key_id = interest.wanted.workspace_id, subscriber.key_id
        self._subscribers.add(subscriber)
        self._followed[workspace_id] += 1
        self._by_key[key_id] += 1
        self._reader.want()
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)
            self._leave(workspace_id, subscriber)
            self._cut_off += subscriber.ended is CloseReason.SLOW
            for counter, counted in ((self._followed, workspace_id), (self._by_key, key_id)):
                counter[counted] -= 1
                if not counter[counted]:
                    del counter[counted]

    async def join(self, subscriber: Subscriber) -> None:
        """Find where it begins. Raises 409 (E2111), and 503 (E3001) where the log is not read."""
        try:
            await self._reader.joined(JOIN_WAIT_S)
        except TimeoutError:
            raise ApiError(codes.DATABASE_UNREACHABLE) from None
        after = subscriber.interest.after
        if after is not None and after > self._reader.position:
            async with self._reads.plain() as connection:
                taken = await taken_position(connection)
            if after > taken:
                raise ApiError(codes.POSITION_AHEAD, lastEventId=after, lastPosition=taken)
        subscriber.begin(self._reader.position if after is None else after)
        subscriber.offer(subscriber.wire.at(OPEN, subscriber.after, is_place=True))
        self._tables.settle(subscriber)
        self._go_live_if_there(subscriber)

    async def stream(self, subscriber: Subscriber) -> AsyncIterator[Sequence[bytes]]:
        """Frames as they come, some at a time, until the client goes or the server ends it."""
        try:
            while not subscriber.is_live and subscriber.ended is None:
                yield subscriber.waiting()
                await self._read_history(subscriber)
        except UNREACHABLE as error:
            log.warning("history cannot be read for a subscriber: %s", error)
            subscriber.end(CloseReason.UNAVAILABLE)
        while frames := await subscriber.take():
            yield frames
        assert subscriber.ended is not None
        yield [subscriber.wire.end(subscriber.ended)]

    async def _read_history(self, subscriber: Subscriber) -> None:
        wanted, upto = subscriber.interest.wanted, self._reader.position
        async with self._history, self._reads.workspace(wanted.workspace_id) as connection:
            page = await history(connection, wanted, subscriber.after, upto)
        for fact in page.facts:
            subscriber.hear(fact)
        if page.upto > subscriber.after:
            subscriber.after = page.upto
            if subscriber.interest.facts:
                # Through what it does not want: if it has to come again, it need not begin here.
                subscriber.offer(subscriber.wire.heartbeat(page.upto))
        self._tables.settle(subscriber)
        self._go_live_if_there(subscriber)

    def _go_live_if_there(self, subscriber: Subscriber) -> None:
        if subscriber.after >= self._reader.position:
            subscriber.is_live = True
            workspace_id = subscriber.interest.wanted.workspace_id
            self._live.setdefault(workspace_id, set()).add(subscriber)

    def _leave(self, workspace_id: UUID, subscriber: Subscriber) -> None:
        if (live := self._live.get(workspace_id)) is not None:
            live.discard(subscriber)
            if not live:
                del self._live[workspace_id]

    def _deliver(self, facts: FactPage) -> None:
        for fact in facts.facts:
            for subscriber in self._live.get(fact.workspace_id, ()):
                subscriber.hear(fact)
        self._facts_told += len(facts.facts)

    def _tables_moved(self) -> None:
        for subscriber in self._subscribers:
            if subscriber.awaited:
                self._tables.settle(subscriber)

    def _workspaces(self) -> list[UUID]:
        return list(self._followed)

    def _require_room(self, caller: Caller) -> None:
        most = self._settings.realtime_subscribers_max
        most_of_key = self._settings.realtime_subscribers_per_key_max
        if self._is_closed:
            raise ApiError(codes.STREAMS_END)
        if len(self._subscribers) >= most:
            raise ApiError(codes.TOO_MANY_SUBSCRIBERS, max=most)
        if self._by_key[caller.key_id] >= most_of_key:
            raise ApiError(codes.TOO_MANY_OF_KEY, max=most_of_key)

    def _end_all(self, reason: CloseReason) -> None:
        for subscriber in self._subscribers:
            subscriber.end(reason)

    async def _every(self, seconds: float, act: OnEnd) -> None:
        while True:
            await asyncio.sleep(seconds)
            await act()

    async def _beat(self) -> None:
        for subscriber in self._subscribers:
            subscriber.beat(self._reader.position)

    async def _check_keys(self) -> None:
        """End the streams of keys that let nobody in any more."""
        callers = {each.interest.caller for each in self._subscribers}
        for caller in callers:
            try:
                holds = await self._authenticator.still_holds(caller)
            except UNREACHABLE as error:
                log.warning("keys of subscribers cannot be checked for now: %s", error)
                return
            if not holds:
                self._end_of(caller)

    def _end_of(self, caller: Caller) -> None:
        for subscriber in self._subscribers:
            if subscriber.interest.caller == caller:
                subscriber.end(CloseReason.KEY)
