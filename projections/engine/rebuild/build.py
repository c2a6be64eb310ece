"""Build read tables from the whole log, in parts that are folded in memory and copied in.

The log is partitioned by account, so each part can be folded by a separate process, and memory is
bounded by the size of a part and not by the length of the log.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from eventlog.connections import Connection, follow_connection
from eventlog.reading import RecordedEvent
from eventlog.reading.part import Part, read_part
from projections.changes import Handler, Projection
from projections.engine.ledger.coverage import CoverageTally, record, tally
from projections.engine.ledger.parking import EntityKey, ParkedEntity, park
from projections.engine.names import shadow_name
from projections.engine.rebuild.sessions import hold_shadow
from projections.engine.rows.copying import copy_rows
from projections.engine.rows.memory import MemoryTables

PARTITION_EVENTS = 500_000
"""Approximate maximum number of events in one part."""
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
        builders = [_Builder(each, schemas[each.name]) for each in projections]
        folder = _Folder(builders)
        buckets: dict[int, CoverageTally] = {}
        for events in _blocks(read_part(source, part)):
            folder.fold(events)
            _merge(buckets, tally(events))
            on_progress(len(events))
        for builder in builders:
            builder.store(connection)
        with connection.transaction():
            record(connection, [shadow_name(each.name) for each in projections], buckets)


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
    """One projection of a build: its tables in memory, and the entities it parked."""

    def __init__(self, projection: Projection, schema: str) -> None:
        self.projection = projection
        self._schema = schema
        self.memory = MemoryTables([projection])
        self.parked: dict[EntityKey, ParkedEntity] = {}

    def skips(self, event: RecordedEvent) -> bool:
        """Whether the event's entity is parked. Counts the event if so."""
        entry = self.parked.get((event.workspace_id, self.projection.entity(event)))
        if entry is not None:
            entry.events += 1
        return entry is not None

    def park(self, event: RecordedEvent, error: Exception) -> None:
        """Park the event's entity: its later events are skipped."""
        entity = (event.workspace_id, self.projection.entity(event))
        message = f"{type(error).__name__}: {error}"
        self.parked[entity] = ParkedEntity(*entity, event.position, 1, message)

    def store(self, connection: Connection) -> None:
        """Copy in the rows, and record the parked entities."""
        for table in self.projection.tables:
            copy_rows(connection, self._schema, table, self.memory.tables[table.name])
        for entry in self.parked.values():
            park(connection, shadow_name(self.projection.name), entry)


class _Folder:
    """Passes each event to the projections that handle its topic."""

    def __init__(self, builders: list[_Builder]) -> None:
        self._builders = builders
        self._by_topic: dict[str, list[tuple[_Builder, Handler]]] = {}

    def fold(self, events: list[RecordedEvent]) -> None:
        for event in events:
            for builder, handler in self._handlers(event.topic):
                if builder.parked and builder.skips(event):
                    continue
                try:
                    builder.memory.change(event.workspace_id, handler(event))
                except Exception as error:  # noqa: BLE001 - any error parks one entity
                    builder.park(event, error)

    def _handlers(self, topic: str) -> list[tuple[_Builder, Handler]]:
        found = self._by_topic.get(topic)
        if found is None:
            each = ((builder, builder.projection.handler(topic)) for builder in self._builders)
            found = [(builder, handler) for builder, handler in each if handler]
            self._by_topic[topic] = found
        return found


def _blocks(events: Iterator[RecordedEvent]) -> Iterator[list[RecordedEvent]]:
    while block := list(islice(events, REPORT_EVENTS)):
        yield block


def _merge(buckets: dict[int, CoverageTally], more: dict[int, CoverageTally]) -> None:
    for bucket, entry in more.items():
        total = buckets.setdefault(bucket, CoverageTally())
        total.n += entry.n
        total.digest += entry.digest
        total.weighted += entry.weighted


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
