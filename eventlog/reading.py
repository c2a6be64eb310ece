"""Reading the log as followers do: in order of position, nothing stepped over, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from eventlog.connections import Connection
from eventlog.digest import event_digest
from eventlog.upcast import upcast

SELECT_AFTER = """
SELECT position, workspace_id, stream_id, stream_version, topic, account_id, data, metadata,
       occurred_at::text, recorded_at::text
  FROM events
 WHERE position > %s AND position <= %s
 ORDER BY position LIMIT %s
"""


@dataclass(slots=True)
class RecordedEvent:
    """An event as followers see it: ids and times as text, data as JSON of today's version."""

    position: int
    workspace_id: str
    stream_id: str
    stream_version: int
    topic: str
    account_id: str | None
    data: dict[str, Any]
    metadata: bytes
    occurred_at: str
    recorded_at: str
    digest: int

    @property
    def kind(self) -> str:
        """The kind of entity that the event is about."""
        return self.topic.split(".", 1)[0]


def readable_position(connection: Connection) -> int:
    """The position up to which all that will ever be there can be read by the next statement.

    Raises `psycopg.Error` on a standby and in a transaction that keeps one snapshot (repeatable
    read, serializable): there an event could be stepped over.
    """
    row = connection.execute("SELECT readable_position()", prepare=True).fetchone()
    assert row is not None
    return int(row[0])


@dataclass(slots=True)
class Page:
    """Some events in order, and the position up to which the log was read by them."""

    events: list[RecordedEvent]
    upto: int
    more: bool


def read_after(
    connection: Connection, position: int, limit: int, *, upto: int | None = None
) -> Page:
    """The next events after `position` (and not beyond `upto`), `limit` at the most.

    Two statements, for the second has to see all that was committed when the first one looked.
    Whoever keeps its place outside this database keeps the position of the last event and not
    `upto`: after a crash of the server, positions that no event took are given out again.
    """
    readable = readable_position(connection)
    if upto is not None:
        readable = min(readable, upto)
    if readable <= position:
        return Page([], position, False)
    rows = connection.execute(SELECT_AFTER, (position, readable, limit), prepare=True).fetchall()
    events = [to_event(row) for row in rows]
    if len(events) == limit:
        return Page(events, events[-1].position, True)
    return Page(events, readable, False)


def to_event(row: tuple[Any, ...]) -> RecordedEvent:
    """A row of the columns of SELECT_AFTER as an event in today's version."""
    position, workspace, stream, version, topic, account, raw, metadata, occurred, recorded = row
    digest = event_digest(position, stream, version, topic, raw, metadata)
    topic, data = upcast(topic, orjson.loads(raw))
    return RecordedEvent(
        position, workspace, stream, version, topic, account, data, metadata,
        iso(occurred), iso(recorded), digest,
    )  # fmt: skip


def follow(connection: Connection, position: int, *, limit: int) -> Iterator[Page]:
    """Pages from `position` to the end of what can be read now."""
    while True:
        page = read_after(connection, position, limit)
        if page.upto > position:
            yield page
        if not page.more:
            return
        position = page.upto


def iso(timestamp: str) -> str:
    """PostgreSQL's text of a time in UTC as ISO 8601 (`2026-01-31T12:00:00.5+00:00`)."""
    return timestamp.replace(" ", "T", 1) + ":00"
