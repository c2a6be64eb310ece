"""Choose a part of history by position, time and workspace, and read it by COPY."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time
from uuid import UUID

from eventlog.connections import Connection
from eventlog.reading import RecordedEvent, readable_position
from eventlog.reading.part import Part, read_part

WINDOW_POSITIONS = 500_000
"""Positions read by one COPY. Each COPY has its own snapshot, so that a long reading does not keep
VACUUM from removing old rows."""

DAY_CHARS = len("2026-01-31")

AsOf = int | datetime
"""A position, or a time with a zone."""


def choose_part(
    connection: Connection,
    *,
    first: int = 0,
    as_of: AsOf | None = None,
    workspace_id: UUID | None = None,
) -> Part:
    """Choose events from position `first` on, in one workspace or all, as of a position or time.

    A time selects by when events occurred. The part ends at the readable position at the latest,
    so that reading it twice gives the same events.
    """
    upto = readable_position(connection)
    if isinstance(as_of, int):
        upto = min(upto, as_of)
    return Part(
        upto,
        after=max(first - 1, 0),
        workspace_id=None if workspace_id is None else str(workspace_id),
        occurred_until=as_of if isinstance(as_of, datetime) else None,
    )


def parse_as_of(text: str) -> AsOf:
    """Parse a position (`4711`), a time (`2026-03-31T12:00+02:00`, by default UTC) or a day.

    A day (`2026-03-31`) is its end in UTC, as in the API. Raises `ValueError`.
    """
    if text.isdecimal():
        return int(text)
    if len(text) == DAY_CHARS:
        return end_of_day(date.fromisoformat(text))
    at = datetime.fromisoformat(text)
    try:
        # PostgreSQL refuses zones of 16 hours and more.
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range") from None


def end_of_day(day: date) -> datetime:
    """The last moment of the day in UTC."""
    return datetime.combine(day, time.max, UTC)


def read_span(connection: Connection, part: Part) -> Iterator[RecordedEvent]:
    """Read the events of a part in order of position, with constant memory."""
    for after in range(part.after, part.upto, WINDOW_POSITIONS):
        upto = min(after + WINDOW_POSITIONS, part.upto)
        yield from read_part(connection, replace(part, after=after, upto=upto))
