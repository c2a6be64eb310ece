"""The engine: follows the log and keeps the read tables, each event exactly once.

A batch is read and folded outside a transaction. Then one short transaction applies each table in
one statement and moves the checkpoints, on the condition that they stood where the batch began.
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
from eventlog.locks import LEASE_LOCK, REBUILD_LOCK
from eventlog.reading import Page, RecordedEvent, read_after
from projections.changes import Projection, Table
from projections.engine.install import READ_SCHEMA
from projections.engine.live.follower import (
    UNDIGESTED,
    CheckpointMoved,
    Digested,
    Follower,
    advance,
    write_all,
)
from projections.engine.live.partitions import align_partitions
from projections.engine.live.planning import (
    ANALYZE_INTERVAL_S,
    analyze_new_tables,
    force_index_plans,
)

log = logging.getLogger(__name__)

BATCH_EVENTS = 1_000
POLL_INTERVAL_S = 0.2
"""How long a projector that hears no hint waits before it looks by itself."""
RETRY_DELAY_S = 0.5
LEASE_INTERVAL_S = 1.0
"""How often a projector asks for projections that somebody else works on."""
HANDOVER_INTERVAL_S = 0.1
"""How often a projector looks whether a rebuild wants to swap what it works on."""

TRY_LEASE = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"
RELEASE = "SELECT pg_advisory_unlock(%s, hashtext(%s))"
HOLD = """
UPDATE projections SET holder = %s, wanted_version = coalesce(%s, wanted_version) WHERE name = %s
"""
# Of a swap whose process or connection died, nothing is left but the state: that counts no more.
# A lock's key as pg_locks has it: two oids, for which a negative integer is a large number.
HANDOVERS = f"""
SELECT name FROM projections AS p
 WHERE state = 'handover' AND EXISTS (
       SELECT FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.classid = {REBUILD_LOCK}
          AND l.objid::bigint = hashtext(p.name)::bigint & 4294967295)
"""


@dataclass
class Batch:
    """What became of one batch, for metrics."""

    events: int
    seconds: float


Observe = Callable[[Batch, Sequence[RecordedEvent]], None]
"""Told of each batch after it was applied."""


def unobserved(_batch: Batch, _events: Sequence[RecordedEvent]) -> None:
    """Nobody looks on."""


class ProjectionEngine:
    """Keeps some projections up to date over two connections: one reads, one writes.

    Not thread-safe but for `stop`. Where several engines run, each projection has one at work;
    another takes over as soon as PostgreSQL sees that the first is gone.
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
        self._batch_events = batch_events
        self._poll_interval_s = poll_interval_s
        self._stopped = threading.Event()
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._observe = observe
        self._known_at = -ANALYZE_INTERVAL_S

    def stop(self) -> None:
        """Finish the batch at hand and return from `run`."""
        self._stopped.set()

    def run(self) -> None:
        """Follow until stopped. A lost database is waited for, and said."""
        while not self._stopped.is_set():
            try:
                with self._connections() as (reader, writer):
                    self._follow(reader, writer)
            except (psycopg.OperationalError, psycopg.InterfaceError, CheckpointMoved) as error:
                log.warning("projecting stopped and is tried again: %s", error)
                self._stopped.wait(RETRY_DELAY_S)

    def catch_up(self) -> None:
        """Apply all that can be read now, then return."""
        with self._connections() as (reader, writer):
            followers = self._lease(writer, self._projections)
            while self._step(reader, writer, followers):
                pass

    @contextmanager
    def _connections(self) -> Iterator[tuple[Connection, Connection]]:
        with (
            follow_connection(self._url, application_name="annals-project") as reader,
            follow_connection(self._url, application_name="annals-apply") as writer,
        ):
            disable_synchronous_commit(writer)
            force_index_plans(writer)
            yield reader, writer

    def _follow(self, reader: Connection, writer: Connection) -> None:
        reader.execute(f"LISTEN {APPENDED}")
        followers: list[Follower] = []
        asked_at = looked_at = -LEASE_INTERVAL_S
        while not self._stopped.is_set():
            if time.monotonic() - looked_at >= HANDOVER_INTERVAL_S:
                looked_at = time.monotonic()
                followers = self._let_go(writer, followers)
            if time.monotonic() - asked_at >= LEASE_INTERVAL_S or not followers:
                asked_at = time.monotonic()
                held = {follower.name for follower in followers}
                free = [each for each in self._projections if each.name not in held]
                followers += self._lease(writer, free)
            if not self._step(reader, writer, followers):
                wait_for_hint(reader, self._poll_interval_s)

    def _lease(self, writer: Connection, projections: Iterable[Projection]) -> list[Follower]:
        """Those projections that nobody else works on, ready to go on from their checkpoint."""
        leased = []
        busy = handovers(writer)
        for projection in projections:
            name = projection.name
            if name in busy:
                continue
            row = writer.execute(TRY_LEASE, (LEASE_LOCK, name)).fetchone()
            if row and row[0]:
                follower = Follower(writer, projection, READ_SCHEMA)
                align_partitions(writer, follower)  # it may have been consumed from Kafka before
                self._warn_if_changed(follower)
                wanted = self._versions.get(name)
                writer.execute(HOLD, (self._holder, wanted, name))
                leased.append(follower)
        return leased

    def _let_go(self, writer: Connection, followers: list[Follower]) -> list[Follower]:
        """Release what a rebuild wants to swap; the rest is kept."""
        busy = handovers(writer)
        for follower in followers:
            if follower.name in busy:
                writer.execute(RELEASE, (LEASE_LOCK, follower.name))
        return [follower for follower in followers if follower.name not in busy]

    def _warn_if_changed(self, follower: Follower) -> None:
        wanted = self._versions.get(follower.name)
        if wanted and wanted != follower.version:
            log.warning(
                "projection %s changed (%s, rows were made by %s): run ./annals rebuild %s",
                follower.name, wanted, follower.version, follower.name,
            )  # fmt: skip

    def _step(self, reader: Connection, writer: Connection, followers: list[Follower]) -> bool:
        """One batch for each position that followers stand at; whether there is more at once."""
        more = False
        for position in sorted({follower.position for follower in followers}):
            group = [follower for follower in followers if follower.position == position]
            page = read_after(reader, position, self._batch_events)
            if page.upto > position:
                started = time.monotonic()
                self._apply(writer, group, page)
                seconds = time.monotonic() - started
                self._observe(Batch(len(page.events), seconds), page.events)
                if started - self._known_at >= ANALYZE_INTERVAL_S:
                    self._known_at = started
                    analyze_new_tables(writer, READ_SCHEMA, tables_of(followers))
            more = more or page.more
        return more

    def _apply(self, writer: Connection, group: list[Follower], page: Page) -> None:
        work = [(follower, follower.digest(page.events)) for follower in group]
        try:
            write_all(writer, work, page.events, page.upto)
        except UNDIGESTED as error:
            log.warning("a batch is applied in parts: %s", error)
            for follower in group:
                self._apply_carefully(writer, follower, page)
            return
        for follower, digested in work:
            tell_parked(follower, digested)

    def _apply_carefully(self, writer: Connection, follower: Follower, page: Page) -> None:
        with writer.transaction():
            advance(writer, follower, page.events, page.upto)
            digested = follower.write_carefully(writer, page.events)
        follower.advanced(page.upto, digested)
        tell_parked(follower, digested)


def tables_of(followers: Iterable[Follower]) -> list[Table]:
    """All that they write to."""
    return [table for follower in followers for table in follower.projection.tables]


def tell_parked(follower: Follower, digested: Digested) -> None:
    """Say in the log which entities wait since now, and why."""
    for entry in digested.set_aside.values():
        if entry.error:
            log.error(
                "projection %s parked entity %s at position %s: %s",
                follower.name, entry.entity_id, entry.position, entry.error,
            )  # fmt: skip


def handovers(writer: Connection) -> set[str]:
    """The projections that a swap asks everybody to let go of."""
    return {row[0] for row in writer.execute(HANDOVERS, prepare=True)}
