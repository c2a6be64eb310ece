"""Build read tables from the whole log: events are folded in memory and the rows copied in.

The log is partitioned by account, so each part can be folded by a separate process, and sorted by
account, so each process holds the rows of few accounts at a time, whatever the length of the log.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import orjson
import psycopg

from eventlog.connections import Connection, disable_synchronous_commit, follow_connection
from eventlog.reading.part import UTC, Part, RawEvent, read_by_owner, recorded
from eventlog.upcast import UpcastStep, upcasts_of
from projections.changes import Projection, Step
from projections.engine.ledger.coverage import CoverageTally, add_up, record
from projections.engine.ledger.parking import EntityKey, ParkedEntity, park
from projections.engine.names import shadow_name
from projections.engine.rebuild.sessions import hold_shadow
from projections.engine.rows.copying import TableCopy
from projections.engine.rows.memory import AppliedProjection, ListedRows

CANCEL_CHECK_S = 1.0
"""How often a worker that waits for PostgreSQL asks whether the rebuild was cancelled."""
REPORT_EVENTS = 5_000
"""Number of events between two reports of progress."""


def build_part(
    url: str,
    projections: list[Projection],
    schemas: dict[str, str],
    part: Part,
    on_progress: Callable[[int], None],
) -> None:
    """Fold one part of the log and copy its rows into the tables.

    schemas: the schema of each projection's tables. on_progress: called with the number of events
    folded since the last call; it may raise `Cancelled`.
    """
    with (
        follow_connection(url, application_name="annals-rebuild") as source,
        follow_connection(url, application_name="annals-rebuild") as connection,
        _gc_disabled(),
    ):
        for projection in projections:
            hold_shadow(connection, projection.name)
        on_progress(0)  # after the lock: it raises an error if the rebuild has ended meanwhile
        disable_synchronous_commit(connection)  # indexing commits later, and waits for all of it
        builders = [_Builder(each, connection, schemas[each.name]) for each in projections]
        folder = _Folder(builders)
        buckets: dict[int, CoverageTally] = {}
        done = 0
        for raws, digests in _until_cancelled(source, part, on_progress):
            folder.fold(raws, digests)
            add_up(buckets, zip([int(raw[0]) for raw in raws], digests, strict=True))
            for builder in builders:
                builder.copy_rows()
            done += len(raws)
            if done >= REPORT_EVENTS:
                on_progress(done)
                done = 0
        on_progress(done)
        for builder in builders:
            builder.finish(connection)
        record(connection, [shadow_name(each.name) for each in projections], buckets)


def _until_cancelled(
    source: Connection, part: Part, on_progress: Callable[[int], None]
) -> Iterator[tuple[list[RawEvent], list[int]]]:
    """Read the part. Until the first events arrive, ask every second whether to stop.

    PostgreSQL sorts the whole part before it sends the first event.
    """
    blocks = read_by_owner(source, part)
    errors: list[Exception] = []
    has_begun = threading.Event()

    def ask() -> None:
        while not has_begun.wait(CANCEL_CHECK_S):
            try:
                on_progress(0)
            except Exception as error:  # noqa: BLE001 - it is raised below
                errors.append(error)
                source.cancel_safe()
                return

    thread = threading.Thread(target=ask, name="rebuild-cancel", daemon=True)
    thread.start()
    try:
        first = next(blocks, None)
    except psycopg.errors.QueryCanceled:
        if not errors:
            raise
    finally:
        has_begun.set()
        thread.join()
    if errors:
        raise errors[0]
    if first is not None:
        yield first
        yield from blocks


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disable garbage collection, which takes a quarter of the time; nothing here has cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Builder:
    """One projection of a build: its rows in memory, and the entities it parked."""

    def __init__(self, projection: Projection, connection: Connection, schema: str) -> None:
        self.projection = projection
        self._copies = {
            table.name: TableCopy(connection, schema, table) for table in projection.tables
        }
        self._rows = {name: ListedRows(copy.columns) for name, copy in self._copies.items()}
        self.applied = AppliedProjection(projection, self._rows)
        self.parked: dict[EntityKey, ParkedEntity] = {}

    def skips(self, raw: RawEvent) -> bool:
        """Whether the event's entity is parked. Counts the event if so."""
        entry = self.parked.get(self._entity(raw))
        if entry is not None:
            entry.events += 1
        return entry is not None

    def park(self, raw: RawEvent, error: Exception) -> None:
        """Park the event's entity: its later events are skipped."""
        entity = self._entity(raw)
        message = f"{type(error).__name__}: {error}"
        self.parked[entity] = ParkedEntity(*entity, int(raw[0]), 1, message)

    def copy_rows(self) -> None:
        """Pass the rows to COPY; no later event changes them."""
        for name, rows in self._rows.items():
            if rows.rows:
                self._copies[name].add(rows.columns, rows.take())

    def finish(self, connection: Connection) -> None:
        """Write the last rows, and record the parked entities."""
        for copy in self._copies.values():
            copy.write()
        for entry in self.parked.values():
            park(connection, shadow_name(self.projection.name), entry)

    def _entity(self, raw: RawEvent) -> EntityKey:
        _, workspace, stream, _, _, account, *_ = raw
        return (workspace, self.projection.entity_of(stream, account or None))


@dataclass(slots=True)
class _Work:
    """What is done with the events of a topic."""

    upcasts: tuple[UpcastStep, ...]
    steps: list[tuple[_Builder, Step]]
    handled: list[_Builder]
    """The projections that have a handler for the topic."""


class _Folder:
    """Passes each event to the projections that change rows for its topic."""

    def __init__(self, builders: list[_Builder]) -> None:
        self._builders = builders
        self._by_topic: dict[str, _Work] = {}

    def fold(self, raws: list[RawEvent], digests: list[int]) -> None:
        """Apply events by rules, without an object for an event or a change."""
        by_topic, loads = self._by_topic, orjson.loads
        for raw, digest in zip(raws, digests, strict=True):
            _, workspace, stream, version, topic, account, at, _, data, _ = raw
            work = by_topic.get(topic)
            if work is None:
                work = by_topic[topic] = self._work(topic)
            if work.handled:
                self._handle(raw, digest, work.handled)
            if not work.steps:
                continue
            values = loads(data)
            for upcast_step in work.upcasts:
                values = upcast_step(values)
            key = (workspace, stream)
            account_key = (workspace, account) if account else None
            number, occurred_at = int(version), at + UTC
            for builder, step in work.steps:
                if builder.parked and builder.skips(raw):
                    continue
                try:
                    step(key, account_key, number, occurred_at, values)
                except Exception as error:  # noqa: BLE001 - any error parks one entity
                    builder.park(raw, error)

    def _handle(self, raw: RawEvent, digest: int, builders: list[_Builder]) -> None:
        event = recorded(raw, digest)
        for builder in builders:
            if builder.parked and builder.skips(raw):
                continue
            try:
                builder.applied.apply(event)
            except Exception as error:  # noqa: BLE001 - any error parks one entity
                builder.park(raw, error)

    def _work(self, stored_topic: str) -> _Work:
        topic, upcasts = upcasts_of(stored_topic)
        return _Work(
            upcasts,
            [
                (each, each.applied.steps[topic])
                for each in self._builders
                if topic in each.applied.steps
            ],
            [each for each in self._builders if topic in each.projection.handlers],
        )


def throttle(
    on_progress: Callable[[int], None], events_per_s: float | None
) -> Callable[[int], None]:
    """A progress callback that sleeps so that events are folded at no more than this rate."""
    if not events_per_s:
        return on_progress
    started = time.monotonic()
    done = 0

    def throttled(events: int) -> None:
        nonlocal done
        done += events
        on_progress(events)
        ahead_s = done / events_per_s - (time.monotonic() - started)
        if ahead_s > 0:
            time.sleep(ahead_s)

    return throttled
