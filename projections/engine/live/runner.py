"""The engine: follows the log and applies each event to the read tables exactly once.

A batch is read and folded outside a transaction. One short transaction then applies each table in
one statement and moves the checkpoints, provided that they stand where the batch began.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from eventlog.connections import Connection, disable_synchronous_commit, follow_connection
from eventlog.hints import APPENDED, wait_for_hint
from eventlog.reading import RecordedEvent
from eventlog.retries import retry_until_stopped, seldom
from projections.changes import Projection, Table
from projections.engine.install import READ_SCHEMA
from projections.engine.live.follower import (
    CannotApply,
    CheckpointMoved,
    Follower,
    apply_page,
)
from projections.engine.live.locks import (
    load_handovers,
    lock_projection,
    release_locks,
    set_holder,
    unlock_projection,
)
from projections.engine.live.partitions import align_partitions
from projections.engine.live.planning import (
    ANALYZE_INTERVAL_S,
    analyze_new_tables,
    force_index_plans,
)
from projections.engine.live.read_ahead import PageReader
from projections.engine.live.set_aside import SetAside

log = logging.getLogger(__name__)

BATCH_EVENTS = 1_000
POLL_INTERVAL_S = 0.2
"""How often the log is polled if no hint arrives."""
RETRY_DELAY_S = 0.5
LOCK_INTERVAL_S = 1.0
"""How often a projector tries to lock projections that another process holds."""
HANDOVER_INTERVAL_S = 0.1
"""How often a projector checks whether a swap waits for one of its projections."""


@dataclass
class Batch:
    """Size and duration of an applied batch, for metrics."""

    events: int
    seconds: float


Observe = Callable[[Batch, Sequence[RecordedEvent]], None]
"""Called with each batch after it was applied."""


def unobserved(_batch: Batch, _events: Sequence[RecordedEvent]) -> None:
    """Ignore the batch."""


class ProjectionEngine:
    """Keeps projections up to date over two connections: one reads, the other writes.

    Not thread-safe except for `stop`. Of several engines, one at a time works on a projection;
    another takes over as soon as PostgreSQL notices that the first is gone.
    """

    def __init__(
        self,
        url: str,
        projections: Iterable[Projection],
        *,
        versions: Mapping[str, str] | None = None,
        batch_events: int = BATCH_EVENTS,
        poll_interval_s: float = POLL_INTERVAL_S,
        observe: Observe = unobserved,
    ) -> None:
        self._url = url
        self._projections = list(projections)
        self._versions = versions or {}
        self._set_aside = SetAside(self._versions)
        self._batch_events = batch_events
        self._poll_interval_s = poll_interval_s
        self._stopped = threading.Event()
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._observe = observe
        self._analyzed_at = -ANALYZE_INTERVAL_S

    def stop(self) -> None:
        """Finish the current batch and return from `run`."""
        self._stopped.set()

    def run(self) -> None:
        """Follow the log until stopped; reconnect, with a warning, if the database is lost."""
        retry_until_stopped(
            self._connect_and_follow,
            self._stopped,
            errors=(psycopg.Error, CheckpointMoved),
            delay_s=RETRY_DELAY_S,
            on_error=seldom(
                lambda error: log.warning("projecting stopped and is retried: %s", error)
            ),
        )

    def catch_up(self) -> None:
        """Apply all events that can be read now, then return."""
        with (
            self._connections() as (reader, writer),
            PageReader(reader, self._batch_events) as pages,
        ):
            followers = self._lock_free(writer, self._projections)
            while self._step(pages, writer, followers):
                pass

    @contextmanager
    def _connections(self) -> Iterator[tuple[Connection, Connection]]:
        with (
            follow_connection(self._url, application_name="annals-project") as reader,
            follow_connection(self._url, application_name="annals-apply") as writer,
        ):
            disable_synchronous_commit(writer)
            force_index_plans(writer)
            try:
                yield reader, writer
            finally:
                release_locks(writer)

    def _connect_and_follow(self) -> None:
        with (
            self._connections() as (reader, writer),
            PageReader(reader, self._batch_events) as pages,
        ):
            self._follow(reader, pages, writer)

    def _follow(self, reader: Connection, pages: PageReader, writer: Connection) -> None:
        reader.execute(f"LISTEN {APPENDED}")
        followers: list[Follower] = []
        locked_at = handed_over_at = -LOCK_INTERVAL_S
        while not self._stopped.is_set():
            if time.monotonic() - handed_over_at >= HANDOVER_INTERVAL_S:
                handed_over_at = time.monotonic()
                followers = self._hand_over(writer, followers)
            if time.monotonic() - locked_at >= LOCK_INTERVAL_S or not followers:
                locked_at = time.monotonic()
                held = {follower.name for follower in followers}
                others = [each for each in self._projections if each.name not in held]
                followers += self._lock_free(writer, others)
            if not self._step(pages, writer, followers):
                pages.take()  # a page may be read ahead for projections that were set aside
                wait_for_hint(reader, self._poll_interval_s)

    def _lock_free(self, writer: Connection, projections: Iterable[Projection]) -> list[Follower]:
        """Lock the projections that no process works on; return followers at their checkpoints."""
        followers = []
        passed_over = load_handovers(writer) | self._set_aside.names(writer)
        for projection in projections:
            name = projection.name
            if name in passed_over or not lock_projection(writer, name):
                continue
            follower = self._set_aside.open_follower(writer, projection)
            if follower is None:
                continue
            try:
                align_partitions(writer, follower)  # it may have been consumed from Kafka before
            except CannotApply as problem:
                self._set_aside.add(writer, problem)
                continue
            set_holder(writer, name, self._holder, self._versions.get(name))
            followers.append(follower)
        return followers

    def _hand_over(self, writer: Connection, followers: list[Follower]) -> list[Follower]:
        """Unlock the projections that a swap waits for. Return the followers that are left."""
        handovers = load_handovers(writer)
        for follower in followers:
            if follower.name in handovers:
                unlock_projection(writer, follower.name)
        return [follower for follower in followers if follower.name not in handovers]

    def _step(self, pages: PageReader, writer: Connection, followers: list[Follower]) -> bool:
        """Apply one batch at each position where followers stand. True if more can be read now.

        A projection that cannot be applied is removed from the followers.
        """
        more = False
        positions = sorted({follower.position for follower in followers})
        for position in positions:
            group = [follower for follower in followers if follower.position == position]
            page = pages.read(position)
            if page.more and len(positions) == 1:
                pages.read_ahead(page.upto)
            if page.upto > position:
                started = time.monotonic()
                try:
                    apply_page(writer, group, page)
                except CannotApply as problem:
                    self._set_aside.add(writer, problem)
                    followers[:] = [each for each in followers if each.name != problem.name]
                    more = bool(followers)
                    continue
                seconds = time.monotonic() - started
                self._observe(Batch(len(page.events), seconds), page.events)
                if started - self._analyzed_at >= ANALYZE_INTERVAL_S:
                    self._analyzed_at = started
                    analyze_new_tables(writer, READ_SCHEMA, tables_of(followers))
            more = more or page.more
        return more


def tables_of(followers: Iterable[Follower]) -> list[Table]:
    """All tables that the followers write to."""
    return [table for follower in followers for table in follower.projection.tables]
