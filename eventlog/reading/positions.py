"""Positions of the log: the readable one, that of the last event, and the last one assigned."""

from __future__ import annotations

from dataclasses import dataclass

from eventlog.connections import AsyncConnection, Connection
from eventlog.locks import WRITER_LOCK

READABLE_POSITION = "readable_position()"
"""SQL: the position that `readable_position` returns, for statements that compare with it."""
SELECT_READABLE = f"SELECT {READABLE_POSITION}"
SELECT_READABLE_FROM = "SELECT readable_position(%s::bigint)"
SELECT_LAST_READABLE = "SELECT last_event_position()"
SELECT_LAST = "SELECT coalesce(max(position), 0) FROM events"
SELECT_TAKEN = "SELECT coalesce(pg_sequence_last_value('public.events_position_seq'), 0)"


# An announcement at the last position that was taken holds no reader back.
SELECT_ANNOUNCED = f"""
SELECT l.bound, l.pid
  FROM (SELECT ((classid::bigint & 16777215) << 32) | objid::bigint AS bound, pid FROM pg_locks
         WHERE locktype = 'advisory' AND objsubid = 1 AND (classid::bigint >> 24) = {WRITER_LOCK}
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS l
 WHERE l.bound < coalesce(pg_sequence_last_value('public.events_position_seq'), 0)
 ORDER BY l.bound, l.pid LIMIT 1
"""


@dataclass(frozen=True)
class Announcement:
    """The announcement that holds readers of the log back: its bound, and the server process."""

    bound: int
    pid: int


def lag(since: str, upto: str, count_max: int) -> str:
    """SQL for a table of one row: how far a reader at `since` is behind `upto`, both SQL.

    Its columns are `n`, the events in between, counted up to `count_max`, and `seconds` since the
    first of them was recorded. Events of all workspaces count, for every role.
    """
    return f"log_behind({since}, {upto}, {count_max})"


def readable_position(connection: Connection, *, known: int = 0) -> int:
    """The position up to which the log is final: the next statement sees every event up to it.

    known: the follower's position; the function is faster if no position was assigned since. Raises
    `psycopg.Error` on a standby and in a transaction that keeps one snapshot (repeatable read,
    serializable), where a follower could step over an event.
    """
    row = connection.execute(SELECT_READABLE_FROM, (known,), prepare=True).fetchone()
    assert row is not None
    return int(row[0])


async def readable_position_async(connection: AsyncConnection) -> int:
    """As `readable_position`, in an event loop."""
    return await _number(connection, SELECT_READABLE)


async def holding_announcement(connection: AsyncConnection) -> Announcement | None:
    """The lowest announcement that readers wait for; None if they wait for none.

    Two observations that are equal are of the same transaction: a later one would have a higher
    bound, because positions were taken since.
    """
    row = await (await connection.execute(SELECT_ANNOUNCED.encode())).fetchone()
    return Announcement(*row) if row else None


async def last_position(connection: AsyncConnection) -> int:
    """The position of the last event that can be read, in any workspace; 0 for an empty log."""
    return await _number(connection, SELECT_LAST_READABLE)


async def taken_position(connection: AsyncConnection) -> int:
    """The last position that was assigned; events below it may not have been committed yet."""
    return await _number(connection, SELECT_TAKEN)


def last_visible_position(connection: Connection) -> int:
    """The highest position of a committed event; events below it may not have been committed."""
    row = connection.execute(SELECT_LAST).fetchone()
    assert row is not None
    return int(row[0])


async def _number(connection: AsyncConnection, statement: str) -> int:
    row = await (await connection.execute(statement.encode())).fetchone()
    assert row is not None
    return int(row[0])
