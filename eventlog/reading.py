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


def readable_position(connection: Connection, *, known: int = 0) -> int:
    """The position up to which all that will ever be there can be read by the next statement.

    known: where the follower is; that there is nothing beyond is found faster. Raises
    `psycopg.Error` on a standby and in a transaction that keeps one snapshot (repeatable read,
    serializable): there an event could be stepped over.
    """
    statement = "SELECT readable_position(%s::bigint)"
    row = connection.execute(statement, (known,), prepare=True).fetchone()
    assert row is not None
    return int(row[0])


@dataclass(slots=True)
class Page:
    """Some events in order, and the position up to which the log was read by them."""

    events: list[RecordedEvent]
    upto: int
    more: bool


@dataclass(slots=True)
class RowPage:
    """The same as rows of the columns of SELECT_AFTER, data and metadata as they are stored."""

    rows: list[tuple[Any, ...]]
    upto: int
    more: bool


def read_after(
    connection: Connection, position: int, limit: int, *, upto: int | None = None
) -> Page:
    """The next events after `position` (and not beyond `upto`), `limit` at the most.

    Whoever keeps its place outside this database keeps the position of the last event and not
    `upto`: after a crash of the server, positions that no event took are given out again.
    """
    page = read_rows_after(connection, position, limit, upto=upto)
    return Page([to_event(row) for row in page.rows], page.upto, page.more)


def read_rows_after(
    connection: Connection, position: int, limit: int, *, upto: int | None = None
) -> RowPage:
    """As `read_after`, for who passes events on as they are.

    Two statements, for the second has to see all that was committed when the first one looked.
    """
    readable = readable_position(connection, known=position)
    if upto is not None:
        readable = min(readable, upto)
    if readable <= position:
        return RowPage([], position, False)
    rows = connection.execute(SELECT_AFTER, (position, readable, limit), prepare=True).fetchall()
    if len(rows) == limit:
        return RowPage(rows, rows[-1][0], True)
    return RowPage(rows, readable, False)


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
