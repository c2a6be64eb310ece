"""Read the log in order of position, without stepping over an event or reading one twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventlog.connections import Connection
from eventlog.libpq.batches import execute_together
from eventlog.reading.positions import SELECT_READABLE_FROM
from eventlog.reading.recorded import COLUMNS, RecordedEvent, log_rows, to_event

SELECT_AFTER = f"""
SELECT {COLUMNS}
  FROM events
 WHERE position > %s
 ORDER BY position LIMIT %s
""".encode()


@dataclass(slots=True)
class Page:
    """Events in order, and the position up to which the log was read to find them."""

    events: list[RecordedEvent]
    upto: int
    more: bool
    """Whether the page is full, so that more events may follow."""


@dataclass(slots=True)
class RowPage:
    """As `Page`, with rows of `COLUMNS`, in which data and metadata are as stored."""

    rows: list[tuple[Any, ...]]
    upto: int
    more: bool


def read_after(
    connection: Connection, position: int, limit: int, *, upto: int | None = None
) -> Page:
    """Read at most `limit` events after `position` and up to `upto`.

    A reader that keeps its place outside this database must keep the position of the last event
    and not `Page.upto`: after a crash, the server may assign positions again that no event took.
    """
    page = read_rows_after(connection, position, limit, upto=upto)
    return Page([to_event(row) for row in page.rows], page.upto, page.more)


def read_rows_after(
    connection: Connection, position: int, limit: int, *, upto: int | None = None
) -> RowPage:
    """As `read_after`, for readers that pass events on as they are stored.

    It takes two statements, because the second must see all that was committed when the first ran.
    Both are sent at once, so the second may also see events above the readable position.
    """
    readable_to, found = execute_together(
        connection, [(SELECT_READABLE_FROM, (position,)), (SELECT_AFTER, (position, limit))]
    )
    readable = int(readable_to.get_value(0, 0) or 0)
    rows = log_rows(found)
    if upto is not None:
        readable = min(readable, upto)
    if readable <= position:
        return RowPage([], position, False)
    if len(rows) == limit and rows[-1][0] <= readable:
        return RowPage(rows, rows[-1][0], True)
    return RowPage([row for row in rows if row[0] <= readable], readable, False)
