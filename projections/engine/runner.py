"""The engine: follows the log and keeps the read tables, each event exactly once.

A batch is read and folded outside a transaction. Then one short transaction applies each table in
one statement and moves the checkpoint, on the condition that it stood where the batch began.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from eventlog.connections import Connection, follow_connection
from eventlog.hints import APPENDED, PROJECTED, wait_for_hint
from eventlog.reading import Page, RecordedEvent, read_after
from projections.changes import Projection
from projections.engine.apply import Statement, statements
from projections.engine.fold import Folded, fold
from projections.engine.install import READ_SCHEMA

log = logging.getLogger(__name__)

BATCH_EVENTS = 1_000
POLL_INTERVAL_S = 0.2
"""How long a projector that hears no hint waits before it looks by itself."""
RETRY_DELAY_S = 0.5
LEASE_LOCK = 68
"""Class of the advisory locks by which one process at a time works on a projection."""

SELECT_POSITION = "SELECT position FROM projections WHERE name = %s"
ADVANCE = """
UPDATE projections SET position = %s, updated_at = clock_timestamp()
 WHERE name = %s AND position = %s
"""
TRY_LEASE = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"


class CheckpointMoved(Exception):
    """Somebody else worked on the same projection; the batch was rolled back."""


@dataclass
class Follower:
    """One projection at work: what it does, where it stands, how it writes."""

    projection: Projection
    position: int
    statements: dict[str, Statement]


class Engine:
    """Keeps some projections up to date over two connections: one reads, one writes.

    Not thread-safe but for `stop`.
    """

    def __init__(
        self,
        url: str,
        projections: Iterable[Projection],
        *,
        batch_events: int = BATCH_EVENTS,
        poll_interval_s: float = POLL_INTERVAL_S,
    ) -> None:
        self._url = url
        self._projections = list(projections)
        self._batch_events = batch_events
        self._poll_interval_s = poll_interval_s
        self._stopped = threading.Event()

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
            yield reader, writer

    def _follow(self, reader: Connection, writer: Connection) -> None:
        reader.execute(f"LISTEN {APPENDED}")
        followers: list[Follower] = []
        while not self._stopped.is_set():
            held = {follower.projection.name for follower in followers}
            free = [each for each in self._projections if each.name not in held]
            followers += self._lease(writer, free)
            if not self._step(reader, writer, followers):
                wait_for_hint(reader, self._poll_interval_s)

    def _lease(self, writer: Connection, projections: Iterable[Projection]) -> list[Follower]:
        """Those projections that nobody else works on, ready to go on from their checkpoint."""
        leased = []
        for projection in projections:
            row = writer.execute(TRY_LEASE, (LEASE_LOCK, projection.name)).fetchone()
            if row and row[0]:
                leased.append(_follower(writer, projection))
        return leased

    def _step(self, reader: Connection, writer: Connection, followers: list[Follower]) -> bool:
        """One batch for each position that followers stand at; whether there is more at once."""
        more = False
        for position in sorted({follower.position for follower in followers}):
            group = [follower for follower in followers if follower.position == position]
            page = read_after(reader, position, self._batch_events)
            if page.upto > position:
                self._apply(writer, group, page)
            more = more or page.more
        return more

    def _apply(self, writer: Connection, group: list[Follower], page: Page) -> None:
        work = [(follower, folded(follower.projection, page.events)) for follower in group]
        with writer.transaction():
            for follower, changes in work:
                for table, rows in changes.items():
                    follower.statements[table].apply(writer, rows)
                _advance(writer, follower, page.upto)
            writer.execute(f"NOTIFY {PROJECTED}")
        for follower in group:
            follower.position = page.upto


def folded(projection: Projection, events: Iterable[RecordedEvent]) -> Folded:
    """What these events come to in the projection's tables."""
    changes = (
        (event.workspace_id, change) for event in events for change in projection.changes(event)
    )
    return fold(changes, projection.tables)


def _follower(writer: Connection, projection: Projection) -> Follower:
    row = writer.execute(SELECT_POSITION, (projection.name,)).fetchone()
    if row is None:
        raise LookupError(f"projection {projection.name} is not installed; run migrate")
    return Follower(projection, row[0], statements(writer, READ_SCHEMA, projection.tables))


def _advance(writer: Connection, follower: Follower, position: int) -> None:
    moved = writer.execute(ADVANCE, (position, follower.projection.name, follower.position))
    if moved.rowcount != 1:
        raise CheckpointMoved(follower.projection.name)
