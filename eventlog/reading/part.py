"""A part of the log, read by COPY: the fastest way to read many events in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import orjson
from psycopg import sql

from eventlog.connections import Connection
from eventlog.digest import DIGESTED, digest_of
from eventlog.reading.copied import copied_blocks
from eventlog.reading.recorded import RecordedEvent
from eventlog.upcast import upcast

ESCAPES = {
    rb"\\": b"\\",
    rb"\n": b"\n",
    rb"\r": b"\r",
    rb"\t": b"\t",
    rb"\b": b"\b",
    rb"\f": b"\f",
    rb"\v": b"\v",
    rb"\|": b"|",
}
"""Escapes of COPY's text format with the delimiter `|`, and the bytes that they stand for."""
ESCAPED = re.compile(rb"\\.")
BLOCK_EVENTS = 1_000
"""Number of events that are read at a time."""
UTC = "+00:00"
LAST_COLUMN = len(DIGESTED) - 1

RawEvent = list[str]
"""The texts of the digested columns as they are stored: position, workspace, stream, version,
topic, account (or nothing), the times at which it occurred and was recorded (ISO 8601 without the
time zone, UTC), data and metadata. No object is made of it, because a rebuild reads millions."""

# With this delimiter and format of times, a line without escapes is the text that is digested.
COPY_PART = """
COPY (SELECT position, workspace_id, stream_id, stream_version, topic, account_id,
             occurred_at AT TIME ZONE 'UTC', recorded_at AT TIME ZONE 'UTC', data, metadata
        FROM events WHERE {condition} ORDER BY {order}) TO STDOUT WITH (NULL '', DELIMITER '|')
"""
OWNER = "coalesce(account_id, stream_id)"
BY_OWNER = f"{OWNER}, position"
SORT_SETTINGS = """
SELECT set_config(name, value, false)
  FROM (VALUES ('work_mem', '64MB'), ('max_parallel_workers_per_gather', '0')) AS s(name, value)
"""
"""One process sorts each part, because the parts are read at the same time."""
COUNT_PART = "SELECT count(*) FROM events WHERE {condition}"
IN_PARTITION = f"abs(uuid_hash({OWNER})::bigint) % {{partitions}} = {{partition}}"


@dataclass(frozen=True)
class Part:
    """A part of the log: a partition of a rebuild, or the events that a reader chose."""

    upto: int
    partition: int = 0
    partitions: int = 1
    after: int = 0
    workspace_id: str | None = None
    occurred_until: datetime | None = None
    """Leave out later events. An import may date an event long before it records it."""

    def condition(self) -> sql.Composed:
        """The part as a condition on the columns of `events`."""
        wanted = [
            sql.SQL("position > {} AND position <= {}").format(self.after, self.upto),
        ]
        if self.partitions > 1:
            wanted.append(
                sql.SQL(IN_PARTITION).format(partitions=self.partitions, partition=self.partition)
            )
        if self.workspace_id is not None:
            wanted.append(sql.SQL("workspace_id = {}::uuid").format(self.workspace_id))
        if self.occurred_until is not None:
            wanted.append(sql.SQL("occurred_at <= {}").format(self.occurred_until))
        return sql.SQL(" AND ").join(wanted)


def count_part(connection: Connection, part: Part) -> int:
    """Count the events of a part."""
    row = connection.execute(sql.SQL(COUNT_PART).format(condition=part.condition())).fetchone()
    assert row is not None
    return int(row[0])


def read_part(connection: Connection, part: Part) -> Iterator[RecordedEvent]:
    """Read the events of a part in order of position."""
    for raws, digests in _read_blocks(connection, part, sql.SQL("position")):
        yield from map(recorded, raws, digests)


def read_by_owner(connection: Connection, part: Part) -> Iterator[tuple[list[RawEvent], list[int]]]:
    """Read the events of a part, and their digests, in blocks that hold all events of an owner.

    The owner is the account, or the entity itself if it belongs to none. Its events are in order of
    position. PostgreSQL sorts them, on disk if need be, so the time grows with the log and the
    memory only with the events of one owner.
    """
    connection.execute(SORT_SETTINGS)
    raws: list[RawEvent] = []
    digests: list[int] = []
    for more, more_digests in _read_blocks(connection, part, sql.SQL(BY_OWNER)):
        if raws and _owner(more[0]) != _owner(raws[-1]):
            yield raws, digests
            raws, digests = [], []
        last = _owner(more[-1])
        cut = len(more)
        while cut and _owner(more[cut - 1]) == last:
            cut -= 1
        if cut:
            yield raws + more[:cut], digests + more_digests[:cut]
            raws, digests = [], []
        raws += more[cut:]
        digests += more_digests[cut:]
    if raws:
        yield raws, digests


def _owner(raw: RawEvent) -> str:
    return raw[5] or raw[2]


def _read_blocks(
    connection: Connection, part: Part, order: sql.SQL
) -> Iterator[tuple[list[RawEvent], list[int]]]:
    """Read the events of a part, and their digests, `BLOCK_EVENTS` at a time."""
    statement = sql.SQL(COPY_PART).format(condition=part.condition(), order=order)
    for block in copied_blocks(connection, statement, BLOCK_EVENTS):
        has_escapes = b"\\" in block
        # The first two spaces of a line are those of the two times.
        lines = [line.replace(b" ", b"T", 2) for line in block[:-1].split(b"\n")]
        if has_escapes:
            raws = [_split(line) for line in lines]
            lines = ["|".join(raw).encode() for raw in raws]
        else:
            raws = [line.decode().split("|", LAST_COLUMN) for line in lines]
        yield raws, list(map(digest_of, lines))


def recorded(raw: RawEvent, digest: int) -> RecordedEvent:
    """The event of the current version."""
    position, workspace, stream, version, topic, account, at, recorded_at, data, metadata = raw
    name, values = upcast(topic, orjson.loads(data))
    return RecordedEvent(
        int(position), workspace, stream, int(version), name, account or None, values,
        metadata.encode(), at + UTC, recorded_at + UTC, digest,
    )  # fmt: skip


def _split(line: bytes) -> RawEvent:
    """Split a line of COPY's text format, of which only data and metadata may have escapes."""
    *head, last = line.split(b"|", LAST_COLUMN - 1)
    end = ESCAPED.sub(b"..", last).index(b"|")
    return [each.decode() for each in (*head, _unescaped(last[:end]), _unescaped(last[end + 1 :]))]


def _unescaped(text: bytes) -> bytes:
    return ESCAPED.sub(lambda match: ESCAPES[match[0]], text)
