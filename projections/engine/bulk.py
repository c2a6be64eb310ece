"""Build tables from all of history at once: partitions of entities, folded in memory, copied in.

The log is divided by account (what belongs together stays together), so each partition is folded
on its own, in a process of its own; memory is bounded by the size of a partition and not by the
length of history.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from psycopg import sql

from eventlog.connections import Connection, follow_connection
from eventlog.digest import event_digest
from eventlog.reading import RecordedEvent, iso
from eventlog.upcast import upcast
from projections.changes import Counts, Key, Projection, Row, Table
from projections.engine.apply import SELECT_COLUMNS
from projections.engine.coverage import Tally, record, tally
from projections.engine.memory import MemoryTables
from projections.engine.parking import Entity, Parked, park

PARTITION_EVENTS = 250_000
"""About how many events one partition holds in memory at a time."""
REPORT_EVENTS = 5_000
COPY_BLOCK_ROWS = 1_000
NULL = "\x01"
"""Stands for null in what is copied in: no field may hold a control character."""

ESCAPES = {
    rb"\\": b"\\",
    rb"\n": b"\n",
    rb"\r": b"\r",
    rb"\t": b"\t",
    rb"\b": b"\b",
    rb"\f": b"\f",
    rb"\v": b"\v",
}
"""How COPY's text format writes characters that would end a line or a column."""
ESCAPED = re.compile(rb"\\.")

COPY_PARTITION = """
COPY (SELECT position, workspace_id, stream_id, stream_version, topic, account_id, data, metadata,
             occurred_at, recorded_at
        FROM events WHERE {condition} ORDER BY position) TO STDOUT
"""
OF_PARTITION = """
abs(uuid_hash(coalesce(account_id, stream_id))::bigint) % {partitions} = {partition}
"""

FILL_COUNTS = """
INSERT INTO {counts} (workspace_id, {by}, n{sums})
SELECT workspace_id, {by}, count(*){summed} FROM {table} GROUP BY workspace_id, {by}
"""


@dataclass(frozen=True)
class Part:
    """A part of history: one partition of a build, or what a reader chose of it."""

    upto: int
    partition: int = 0
    partitions: int = 1
    after: int = 0
    workspace_id: str | None = None
    occurred_until: datetime | None = None
    """Only what had occurred by then; an import may set that to long before it was recorded."""

    def condition(self) -> sql.Composed:
        """The same over columns of `events`."""
        wanted = [
            sql.SQL("position > {} AND position <= {}").format(self.after, self.upto),
        ]
        if self.partitions > 1:
            wanted.append(
                sql.SQL(OF_PARTITION).format(partitions=self.partitions, partition=self.partition)
            )
        if self.workspace_id is not None:
            wanted.append(sql.SQL("workspace_id = {}::uuid").format(self.workspace_id))
        if self.occurred_until is not None:
            wanted.append(sql.SQL("occurred_at <= {}").format(self.occurred_until))
        return sql.SQL(" AND ").join(wanted)


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
    with follow_connection(url, application_name="annals-rebuild") as connection:
        # A projector that raises for an entity leaves all of that entity's rows out, parked.
        builders = [_Builder(projection) for projection in projections]
        buckets: dict[int, Tally] = {}
        for events in _blocks(read_part(connection, part)):
            for builder in builders:
                builder.take(events)
            _merge(buckets, tally(events))
            progress(len(events))
        for builder in builders:
            _store(connection, builder, schemas[builder.projection.name])
        with connection.transaction():
            record(connection, [shadow_name(each.name) for each in projections], buckets)


def shadow_name(projection: str) -> str:
    """Under which name the ledger of a projection's shadow is kept until the swap."""
    return f"{projection}:shadow"


class _Builder:
    """One projection of a build: its tables, and what it could not digest."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.memory = MemoryTables([projection])
        self.parked: dict[Entity, Parked] = {}

    def take(self, events: list[RecordedEvent]) -> None:
        wanted = self.projection.handler
        for event in events:
            if wanted(event.topic) is None:
                continue
            if self.parked:
                entry = self.parked.get((event.workspace_id, self.projection.entity(event)))
                if entry is not None:
                    entry.events += 1
                    continue
            try:
                self.memory.apply(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, it parks one entity
                entity = (event.workspace_id, self.projection.entity(event))
                message = f"{type(error).__name__}: {error}"
                self.parked[entity] = Parked(*entity, event.position, 1, message)


def read_part(connection: Connection, part: Part) -> Iterator[RecordedEvent]:
    """The events of a partition in order of position, by COPY."""
    statement = sql.SQL(COPY_PARTITION).format(condition=part.condition())
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        rest = b""
        for block in copy:
            lines = (rest + bytes(block)).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield _parse(line)


def _parse(line: bytes) -> RecordedEvent:
    """A line of COPY's text format."""
    position, workspace, stream, version, topic, account, raw, metadata, occurred, recorded = (
        line.split(b"\t")
    )
    if b"\\" in line:
        raw, metadata = _unescaped(raw), _unescaped(metadata)
    number, stream_id, stream_version = int(position), stream.decode(), int(version)
    written = topic.decode()
    digest = event_digest(number, stream_id, stream_version, written, raw, metadata)
    name, data = upcast(written, orjson.loads(raw))
    return RecordedEvent(
        number, workspace.decode(), stream_id, stream_version, name,
        None if account == b"\\N" else account.decode(), data, metadata,
        iso(occurred.decode()), iso(recorded.decode()), digest,
    )  # fmt: skip


def _unescaped(text: bytes) -> bytes:
    return ESCAPED.sub(lambda match: ESCAPES[match[0]], text)


def _blocks(events: Iterable[RecordedEvent]) -> Iterator[list[RecordedEvent]]:
    block: list[RecordedEvent] = []
    for event in events:
        block.append(event)
        if len(block) == REPORT_EVENTS:
            yield block
            block = []
    if block:
        yield block


def _merge(buckets: dict[int, Tally], more: dict[int, Tally]) -> None:
    for bucket, entry in more.items():
        total = buckets.setdefault(bucket, Tally())
        total.n += entry.n
        total.digest += entry.digest
        total.weighted += entry.weighted


def _store(connection: Connection, builder: _Builder, schema: str) -> None:
    for table in builder.projection.tables:
        copy_rows(connection, schema, table, builder.memory.tables[table.name])
        builder.memory.tables[table.name] = {}
    for entry in builder.parked.values():
        park(connection, shadow_name(builder.projection.name), entry)


def copy_rows(connection: Connection, schema: str, table: Table, rows: dict[Key, Row]) -> None:
    """COPY rows into a table that has none with these keys."""
    types = connection.execute(SELECT_COLUMNS, (f"{schema}.{table.name}",)).fetchall()
    names = [name for name, _ in types if name not in {"workspace_id", table.key}]
    columns = ", ".join(["workspace_id", table.key, *names])
    statement = f"COPY {schema}.{table.name} ({columns}) FROM STDIN WITH (NULL '{NULL}')"
    lines: list[str] = []
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        for (workspace_id, key), row in rows.items():
            get = row.get
            values = [_plain(get(name)) for name in names]
            line = "\t".join([workspace_id, key, *values])
            if "\\" in line or "\n" in line or "\r" in line or line.count("\t") > len(names) + 1:
                line = "\t".join([workspace_id, key, *map(_escaped, values)])
            lines.append(line)
            if len(lines) == COPY_BLOCK_ROWS:
                copy.write("\n".join([*lines, ""]))
                lines.clear()
        if lines:
            copy.write("\n".join([*lines, ""]))


def _plain(value: Any) -> str:
    """A value as COPY's text, as yet without escapes."""
    if value.__class__ is str:
        return str(value)
    if value is None:
        return NULL
    if isinstance(value, (dict, list)):
        return orjson.dumps(value).decode()
    return str(value)


def _escaped(text: str) -> str:
    """What would end a line or a column, as COPY's text format writes it."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def fill_counts(connection: Connection, schema: str, table: Table, counts: Counts) -> None:
    """Count the rows of a table that was copied in."""
    connection.execute(
        FILL_COUNTS.format(
            counts=f"{schema}.{counts.table}",
            table=f"{schema}.{table.name}",
            by=", ".join(counts.by),
            sums="".join(f", {column}" for column in counts.sums),
            summed="".join(f", coalesce(sum({column}), 0)" for column in counts.sums),
        ).encode()
    )


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
