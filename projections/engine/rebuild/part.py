"""A part of history, and its events read by COPY: for whoever folds much of it at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import orjson
from psycopg import sql

from eventlog.connections import Connection
from eventlog.digest import event_digest
from eventlog.reading import RecordedEvent, iso
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
"""How COPY's text format writes characters that would end a line or a column."""
ESCAPED = re.compile(rb"\\.")

COPY_PARTITION = """
COPY (SELECT position, workspace_id, stream_id, stream_version, topic, account_id, data, metadata,
             occurred_at, recorded_at
        FROM events WHERE {condition} ORDER BY position) TO STDOUT WITH (NULL '')
"""
OF_PARTITION = """
abs(uuid_hash(coalesce(account_id, stream_id))::bigint) % {partitions} = {partition}
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
        line.decode().split("\t")  # once, and not field by field
        if b"\\" not in line
        else [_unescaped(text).decode() for text in line.split(b"\t")]
    )
    number, stream_version, stored = int(position), int(version), metadata.encode()
    digest = event_digest(number, stream, stream_version, topic, raw.encode(), stored)
    name, data = upcast(topic, orjson.loads(raw))
    return RecordedEvent(
        number, workspace, stream, stream_version, name, account or None, data, stored,
        iso(occurred), iso(recorded), digest,
    )  # fmt: skip


def _unescaped(text: bytes) -> bytes:
    return ESCAPED.sub(lambda match: ESCAPES[match[0]], text)
