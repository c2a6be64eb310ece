"""Positions of the log: the readable one, that of the last event, and the last one assigned."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

from eventlog.connections import AsyncConnection, Connection
from eventlog.locks import WRITER_LOCK

POSITION_MAX = 2**62
"""A position above all that are ever assigned."""
READABLE_POSITION = "readable_position()"
"""SQL: the position that `readable_position` returns, for statements that compare with it."""
SELECT_READABLE = f"SELECT {READABLE_POSITION}"
SELECT_READABLE_FROM = b"SELECT readable_position(%s::bigint)"
SELECT_LAST_READABLE = "SELECT last_event_position()"
SELECT_LAST = "SELECT coalesce(max(position), 0) FROM events"
SELECT_TAKEN = "SELECT coalesce(pg_sequence_last_value('public.events_position_seq'), 0)"


# An exclusive lock counts although it may not have been granted: waiting for it is enough to keep
# writers from announcing.
SELECT_WRITER_LOCKS = f"""
SELECT DISTINCT ON (is_exclusive) is_exclusive, bound, pid
  FROM (SELECT mode = 'ExclusiveLock' AS is_exclusive, pid,
               ((classid::bigint & 16777215) << 32) | objid::bigint AS bound
          FROM pg_locks
         WHERE locktype = 'advisory' AND objsubid = 1 AND (classid::bigint >> 24) = {WRITER_LOCK}
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS l
 ORDER BY is_exclusive, bound, pid
"""
SELECT_WITHHELD_S = """
SELECT coalesce(seconds, 0)
  FROM log_behind(%s, coalesce(pg_sequence_last_value('public.events_position_seq'), 0), 1)
"""


@dataclass(frozen=True)
class WriterLock:
    """A lock of the class by which writers announce themselves: its bound and server process."""

    bound: int
    pid: int


@dataclass(frozen=True)
class WriterLocks:
    """The locks that followers and writers wait for, the one with the lowest bound of each mode."""

    announcement: WriterLock | None = None
    """A shared lock, as writers take it. Followers read no further than its bound."""
    exclusive: WriterLock | None = None
    """An exclusive lock, held or waited for. No writer takes one; it makes appends fail."""


NO_LOCKS = WriterLocks()


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
    return one_number(connection.execute(SELECT_READABLE_FROM, (known,), prepare=True))


async def readable_position_async(connection: AsyncConnection) -> int:
    """As `readable_position`, in an event loop."""
    return await _number(connection, SELECT_READABLE)


async def writer_locks(connection: AsyncConnection) -> WriterLocks:
    """The locks of announcements."""
    rows = await (await connection.execute(SELECT_WRITER_LOCKS.encode())).fetchall()
    found = {is_exclusive: WriterLock(bound, pid) for is_exclusive, bound, pid in rows}
    return WriterLocks(found.get(False), found.get(True))


async def withheld_s(connection: AsyncConnection, since: int) -> float:
    """The age in seconds of the first committed event after this position; 0 if there is none."""
    row = await (await connection.execute(SELECT_WITHHELD_S.encode(), (since,))).fetchone()
    assert row is not None
    return float(row[0])


async def last_position(connection: AsyncConnection) -> int:
    """The position of the last event that can be read, in any workspace; 0 for an empty log."""
    return await _number(connection, SELECT_LAST_READABLE)


async def taken_position(connection: AsyncConnection) -> int:
    """The last position that was assigned; events below it may not have been committed yet."""
    return await _number(connection, SELECT_TAKEN)


def last_visible_position(connection: Connection) -> int:
    """The highest position of a committed event; events below it may not have been committed."""
    return one_number(connection.execute(SELECT_LAST))


def one_number(found: psycopg.Cursor[TupleRow]) -> int:
    """The number that a statement returns."""
    row = found.fetchone()
    assert row is not None
    return int(row[0])


async def _number(connection: AsyncConnection, statement: str) -> int:
    row = await (await connection.execute(statement.encode())).fetchone()
    assert row is not None
    return int(row[0])
