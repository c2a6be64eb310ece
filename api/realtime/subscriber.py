"""A subscriber: what it wants, its queue of frames, and the facts whose `ready` is pending."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from api.http.auth import Caller
from api.http.visibility import Visibility
from api.realtime.transport import READY, Transport
from replay.facts import Fact, FactFilter


class CloseReason(StrEnum):
    """Why the server ends a stream."""

    SLOW = "slow"
    """The client was too slow. As after every end, it may resume after its last id."""
    KEY = "key"
    """The API key was revoked, has expired or has another role now."""
    SHUTDOWN = "shutdown"
    UNAVAILABLE = "unavailable"
    """The history cannot be read at the moment."""
    RESET = "reset"
    """The log was replaced by another one; the client has to read everything again."""


@dataclass(frozen=True)
class Interest:
    """What a caller subscribes to, and how much of it the caller may see."""

    caller: Caller
    wanted: FactFilter
    visibility: Visibility
    facts: bool = True
    """Send the facts."""
    ready: bool = False
    """Send `ready` when the read tables have them."""
    after: int | None = None
    """Resume after this position; None starts at the end of the log."""


@dataclass(slots=True)
class PendingReady:
    """A fact, or all facts up to a position, that the read tables do not have yet."""

    position: int
    fact: Fact | None
    """None if it stands for all facts up to the position."""


class Subscriber:
    """One subscription. Used in the event loop only; only `take` waits."""

    __slots__ = (
        "_queue", "_queue_max", "_wake", "after", "ended", "interest", "is_live", "pending",
        "transport",
    )  # fmt: skip

    def __init__(self, interest: Interest, transport: Transport, queue_max: int) -> None:
        self.interest = interest
        self.transport = transport
        self.pending: deque[PendingReady] = deque()
        self.after = 0
        """The position up to which everything was queued."""
        self.ended: CloseReason | None = None
        self.is_live = False
        """Whether it receives what the log reader reads, having read the history before."""
        self._queue: deque[bytes] = deque()
        self._queue_max = queue_max
        self._wake: asyncio.Future[None] | None = None

    @property
    def key_id(self) -> UUID:
        """The API key of the caller."""
        return self.interest.caller.key_id

    @property
    def resumes_by_ready(self) -> bool:
        """Whether the client resumes after a `ready`: if it does not receive facts."""
        return not self.interest.facts

    def start_at(self, position: int) -> None:
        """Receive everything after this position, and a `ready` for what is before it."""
        self.after = position
        is_resumed = self.resumes_by_ready and self.interest.after is not None
        if self.interest.ready and not is_resumed:
            self.pending.append(PendingReady(position, None))

    def deliver(self, fact: Fact) -> None:
        """Queue a fact of its workspace, unless it is not wanted or was delivered before."""
        if fact.position <= self.after or not self.interest.wanted.matches(fact):
            return
        self.after = fact.position
        if self.interest.facts:
            self.enqueue(self.transport.fact(fact, self.interest.visibility))
        if self.interest.ready:
            self._add_pending(fact)

    def send_ready(self, pending: PendingReady) -> None:
        """Queue the `ready` for what was pending."""
        is_resumable = self.resumes_by_ready
        if pending.fact is None:
            frame = self.transport.at(READY, pending.position, is_resumable=is_resumable)
        else:
            frame = self.transport.ready(pending.fact, is_resumable=is_resumable)
        self.enqueue(frame)

    def enqueue(self, frame: bytes) -> None:
        """Append a frame to the queue; end the stream if the queue is full.

        The limit holds for live subscribers: history is read in pages, each sent before the next.
        """
        if self.ended is not None:
            return
        if self.is_live and len(self._queue) >= self._queue_max:
            self._queue.clear()
            self.end(CloseReason.SLOW)
            return
        self._queue.append(frame)
        self._wake_up()

    def send_heartbeat(self, position: int) -> None:
        """Queue a heartbeat if the queue is empty. It has an id if clients can resume after it."""
        if self._queue:
            return
        is_resumable = self.is_live and (self.interest.facts or not self.pending)
        event_id = max(position, self.after) if is_resumable else None
        self.enqueue(self.transport.heartbeat(event_id))

    def end(self, reason: CloseReason) -> None:
        """End the stream after the queue is sent. The first reason counts."""
        if self.ended is None:
            self.ended = reason
            self._wake_up()

    def drain(self) -> list[bytes]:
        """Remove and return all frames of the queue."""
        frames = list(self._queue)
        self._queue.clear()
        return frames

    async def take(self) -> list[bytes]:
        """Wait for frames, then drain the queue. Return an empty list when the stream ends."""
        while not self._queue and self.ended is None:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        return self.drain()

    def _add_pending(self, fact: Fact) -> None:
        if len(self.pending) >= self._queue_max:
            # A lagging projection must not end the stream: one `ready` replaces all of them.
            self.pending.clear()
            self.pending.append(PendingReady(fact.position, None))
        else:
            self.pending.append(PendingReady(fact.position, fact))

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
