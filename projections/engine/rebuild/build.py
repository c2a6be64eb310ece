"""Build tables from all of history at once: partitions of entities, folded in memory, copied in.

The log is divided by account (what belongs together stays together), so each partition is folded
on its own, in a process of its own; memory is bounded by the size of a partition and not by the
length of history.
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
from projections.changes import Handler, Projection, Table
from projections.engine.ledger.coverage import CoverageTally, record, tally
from projections.engine.ledger.parking import EntityKey, Parked, park
from projections.engine.memory import MemoryTables
from projections.engine.rebuild.copying import copy_rows

PARTITION_EVENTS = 500_000
"""About how many events one partition holds in memory at a time."""
REPORT_EVENTS = 5_000


def build_part(
    url: str,
    projections: list[Projection],
    schemas: dict[str, str],
    part: Part,
    progress: Callable[[int], None],
) -> None:
    """Fold one partition of the log and copy its rows into the tables.

    `schemas` says for each projection where its tables are. `progress` is told how many more
    events were folded; it may raise `Cancelled`.
    """
    with (
        follow_connection(url, application_name="annals-rebuild") as source,
        follow_connection(url, application_name="annals-rebuild") as connection,
        _uncollected(),
    ):
        builders = [_Builder(each, schemas[each.name]) for each in projections]
        folder = _Folder(builders)
        buckets: dict[int, CoverageTally] = {}
        for events in _blocks(read_part(source, part)):
            folder.take(events)
            for builder in builders:
                builder.store_what_stays(connection)
            _merge(buckets, tally(events))
            progress(len(events))
        for builder in builders:
            builder.store(connection)
        with connection.transaction():
            record(connection, [shadow_name(each.name) for each in projections], buckets)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Rows and events hold no cycles: looking for some would take a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def shadow_name(projection: str) -> str:
    """Under which name the ledger of a projection's shadow is kept until the swap."""
    return f"{projection}:shadow"


class _Builder:
    """One projection of a build: its tables, and what it could not digest."""

    def __init__(self, projection: Projection, schema: str) -> None:
        self.projection = projection
        self._schema = schema
        self.memory = MemoryTables([projection])
        self.parked: dict[EntityKey, Parked] = {}

    def passes_over(self, event: RecordedEvent) -> bool:
        """Whether the event's entity is parked; counts it then."""
        entry = self.parked.get((event.workspace_id, self.projection.entity(event)))
        if entry is not None:
            entry.events += 1
        return entry is not None

    def park(self, event: RecordedEvent, error: Exception) -> None:
        """The projector raised: the entity is left alone from here on."""
        entity = (event.workspace_id, self.projection.entity(event))
        message = f"{type(error).__name__}: {error}"
        self.parked[entity] = Parked(*entity, event.position, 1, message)

    def store_what_stays(self, connection: Connection) -> None:
        """Copy in the rows that no later event changes."""
        for table in self.projection.tables:
            if table.append_only:
                self._copy(connection, table)

    def store(self, connection: Connection) -> None:
        """Copy in all rows, and say what is parked."""
        for table in self.projection.tables:
            self._copy(connection, table)
        for entry in self.parked.values():
            park(connection, shadow_name(self.projection.name), entry)

    def _copy(self, connection: Connection, table: Table) -> None:
        copy_rows(connection, self._schema, table, self.memory.tables[table.name])
        self.memory.tables[table.name].clear()


class _Folder:
    """Gives each event to the projectors that want it, and to no other."""

    def __init__(self, builders: list[_Builder]) -> None:
        self._builders = builders
        self._by_topic: dict[str, list[tuple[_Builder, Handler]]] = {}

    def take(self, events: list[RecordedEvent]) -> None:
        for event in events:
            for builder, handler in self._wanted(event.topic):
                if builder.parked and builder.passes_over(event):
                    continue
                try:
                    builder.memory.change(event.workspace_id, handler(event))
                except Exception as error:  # noqa: BLE001 - whatever it is, it parks one entity
                    builder.park(event, error)

    def _wanted(self, topic: str) -> list[tuple[_Builder, Handler]]:
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


def throttled(progress: Callable[[int], None], events_per_s: float | None) -> Callable[[int], None]:
    """A progress callback that sleeps so that no more than this many events are folded a second."""
    if not events_per_s:
        return progress
    started = time.monotonic()
    done = 0

    def slowed(events: int) -> None:
        nonlocal done
        done += events
        progress(events)
        ahead_s = done / events_per_s - (time.monotonic() - started)
        if ahead_s > 0:
            time.sleep(ahead_s)

    return slowed
