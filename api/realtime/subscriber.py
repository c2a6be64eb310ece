"""One who follows: what is wanted, what waits to be sent, and of what the tables are awaited."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from api.http.auth import Caller
from api.http.visibility import Visibility
from api.realtime.transport import READY, Transport
from replay.facts import Fact, Wanted


class CloseReason(StrEnum):
    """Why the server ends a stream."""

    SLOW = "slow"
    """It did not take what it was sent; it goes on from the last id, as all of them can."""
    KEY = "key"
    """Its key was revoked or has expired, or its role is another."""
    SHUTDOWN = "shutdown"
    UNAVAILABLE = "unavailable"
    """History cannot be read at the moment."""
    RESET = "reset"
    """The log is another one than before: read anew what is shown."""


@dataclass(frozen=True)
class Interest:
    """Who wants to hear of what, and how much of it may be seen."""

    caller: Caller
    wanted: Wanted
    sight: Visibility
    facts: bool = True
    """Follow the facts."""
    ready: bool = False
    """Follow that the read tables have them."""
    after: int | None = None
    """Go on after this position; from now on where it is None."""


@dataclass(slots=True)
class Awaited:
    """Something that the read tables do not have yet."""

    position: int
    fact: Fact | None
    """None where it stands for all up to the position."""


class Subscriber:
    """Lives in the event loop. Whatever is offered never waits; `take` does."""

    __slots__ = (
        "_queue", "_queue_max", "_wake", "after", "awaited", "ended", "interest", "is_live", "wire",
    )  # fmt: skip

    def __init__(self, interest: Interest, wire: Transport, queue_max: int) -> None:
        self.interest = interest
        self.wire = wire
        self.awaited: deque[Awaited] = deque()
        self.after = 0
        """It has heard all up to here."""
        self.ended: CloseReason | None = None
        self.is_live = False
        """It hears what the reader of the log reads, and reads no history any more."""
        self._queue: deque[bytes] = deque()
        self._queue_max = queue_max
        self._wake: asyncio.Future[None] | None = None

    @property
    def key_id(self) -> UUID:
        """The key that it came with."""
        return self.interest.caller.key_id

    @property
    def is_place(self) -> bool:
        """Whether a `ready` is a place from which to go on: where nothing else is followed."""
        return not self.interest.facts

    def begin(self, position: int) -> None:
        """It hears of all after this position; what tables do not have by now is awaited."""
        self.after = position
        is_resumed_ready = self.is_place and self.interest.after is not None
        if self.interest.ready and not is_resumed_ready:
            self.awaited.append(Awaited(position, None))

    def hear(self, fact: Fact) -> None:
        """Offer a fact of its workspace; what it did not ask for and what it knows is left out."""
        if fact.position <= self.after or not self.interest.wanted.matches(fact):
            return
        self.after = fact.position
        if self.interest.facts:
            self.offer(self.wire.fact(fact, self.interest.sight))
        if self.interest.ready:
            self._await(fact)

    def tell_ready(self, awaited: Awaited) -> None:
        """The read tables have it."""
        if awaited.fact is None:
            self.offer(self.wire.at(READY, awaited.position, is_place=self.is_place))
        else:
            self.offer(self.wire.ready(awaited.fact, is_place=self.is_place))

    def offer(self, frame: bytes) -> None:
        """Put it at the end of the queue; where that is full, this one is cut off.

        Who reads history fills the queue by pages, and empties it before the next one.
        """
        if self.ended is not None:
            return
        if self.is_live and len(self._queue) >= self._queue_max:
            self._queue.clear()
            self.end(CloseReason.SLOW)
            return
        self._queue.append(frame)
        self._waken()

    def beat(self, position: int) -> None:
        """Offer a heartbeat where nothing else waits; it moves the place where all is told."""
        if self._queue:
            return
        is_told = self.is_live and (self.interest.facts or not self.awaited)
        self.offer(self.wire.heartbeat(max(position, self.after) if is_told else None))

    def end(self, reason: CloseReason) -> None:
        """Send what waits, then end the stream. The first reason holds."""
        if self.ended is None:
            self.ended = reason
            self._waken()

    def waiting(self) -> list[bytes]:
        """All that waits, which waits no longer."""
        frames = list(self._queue)
        self._queue.clear()
        return frames

    async def take(self) -> list[bytes]:
        """All that waits, as soon as there is something; nothing where the stream is to end."""
        while not self._queue and self.ended is None:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        return self.waiting()

    def _await(self, fact: Fact) -> None:
        if len(self.awaited) >= self._queue_max:
            # A lagging projection must not disconnect anyone: one `ready` replaces all of them.
            self.awaited.clear()
            self.awaited.append(Awaited(fact.position, None))
        else:
            self.awaited.append(Awaited(fact.position, fact))

    def _waken(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
