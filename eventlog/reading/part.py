"""A part of the log, read by COPY: the fastest way to read many events in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import orjson
from psycopg import sql

from eventlog.connections import Connection
from eventlog.digest import event_digest
from eventlog.reading.recorded import RecordedEvent, iso
from eventlog.upcast import upcast

ESCAPES = {
    rb"\\": b"\\",
    rb"\n": b"\n",
    rb"\r": b"\r",
    rb"\t": b"\t",
    rb"\b": b"\b",
    rb"\f": b"\f",
    rb"\v": b"\v",
}
"""Escapes of COPY's text format, and the bytes that they stand for."""
ESCAPED = re.compile(rb"\\.")

COPY_PART = """
COPY (SELECT position, workspace_id, stream_id, stream_version, topic, account_id, data, metadata,
             occurred_at, recorded_at
        FROM events WHERE {condition} ORDER BY position) TO STDOUT WITH (NULL '')
"""
COUNT_PART = "SELECT count(*) FROM events WHERE {condition}"
IN_PARTITION = """
abs(uuid_hash(coalesce(account_id, stream_id))::bigint) % {partitions} = {partition}
"""


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
    statement = sql.SQL(COPY_PART).format(condition=part.condition())
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        rest = b""
        for block in copy:
            lines = (rest + bytes(block)).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield _parse(line)


def _parse(line: bytes) -> RecordedEvent:
    """Make an event from a line of COPY's text format."""
    position, workspace, stream, version, topic, account, raw, metadata, occurred, recorded = (
        line.decode().split("\t")  # faster than decoding each field
        if b"\\" not in line
        else [_unescaped(text).decode() for text in line.split(b"\t")]
    )
    number, stream_version, stored = int(position), int(version), metadata.encode()
    occurred_at, recorded_at = iso(occurred), iso(recorded)
    digest = event_digest(
        number, workspace, stream, stream_version, topic, account, occurred_at, recorded_at,
        raw.encode(), stored,
    )  # fmt: skip
    name, data = upcast(topic, orjson.loads(raw))
    return RecordedEvent(
        number, workspace, stream, stream_version, name, account or None, data, stored,
        occurred_at, recorded_at, digest,
    )  # fmt: skip


def _unescaped(text: bytes) -> bytes:
    return ESCAPED.sub(lambda match: ESCAPES[match[0]], text)
