"""Queries for health and metrics. All of them cover every workspace."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from eventlog.locks import PROJECTION_LOCK
from eventlog.reading.positions import READABLE_POSITION, lag
from readmodels.operation.checkpoints import LAG_EVENTS_MAX
from readmodels.pool import AsyncConnection

Row = tuple[Any, ...]

# A lock's key in pg_locks is two oids, so a negative integer appears as a large number.
SELECT_PROJECTION_LOCKS = f"""
SELECT p.name, l.pid
  FROM pg_locks AS l JOIN projections AS p
    ON l.objid::bigint = hashtext(p.name)::bigint & 4294967295
 WHERE l.locktype = 'advisory' AND l.classid = {PROJECTION_LOCK} AND l.objsubid = 2 AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
SELECT_BLOCKERS = "SELECT pid, pg_blocking_pids(pid) FROM unnest(%s::integer[]) AS pid"
SELECT_REBUILDS = """
SELECT projection, state, processed, total FROM projection_rebuilds
 WHERE ended_at IS NULL AND kind = 'rebuild' ORDER BY id
"""
SELECT_CHECKS = "SELECT projection, newest, swept_at FROM projection_checks"
SELECT_BATCHES = """
SELECT source, events, seconds, batches_by_events, batches_by_seconds FROM projector_work
"""
SELECT_PROCESSES = f"""
SELECT i.process, i.position, b.n, coalesce(b.seconds, 0), w.n, w.oldest_s,
       unread_by_process(i.process, known.topics),
       extract(epoch FROM clock_timestamp() - i.updated_at)::float
  FROM process_inboxes AS i
  JOIN waiting_commands() AS w USING (process)
  JOIN json_to_recordset(%s) AS known (process text, topics text[]) USING (process)
 CROSS JOIN {lag("i.position", READABLE_POSITION, LAG_EVENTS_MAX)} AS b
 ORDER BY i.process
"""
SELECT_BREAKERS = """
SELECT name, state, cardinality(failures),
       greatest(0, coalesce(extract(epoch FROM until - clock_timestamp()), 0))::float
  FROM circuit_breakers ORDER BY name
"""
SELECT_JOBS = "SELECT n, oldest_s, idle_s FROM jobs_open()"
SELECT_STORAGE = f"""
SELECT current_setting('default_transaction_read_only')::boolean, b.age_s IS NOT NULL,
       coalesce(b.age_s, l.seconds, 0)
  FROM (SELECT extract(epoch FROM clock_timestamp() - max(made_at))::double precision AS age_s
          FROM backups) AS b
 CROSS JOIN {lag("0", READABLE_POSITION, 1)} AS l
"""
SELECT_MIGRATIONS = "SELECT migration_id FROM _yoyo_migration"


async def load_storage(connection: AsyncConnection) -> Row:
    """Return whether writes are refused, whether there is a backup, and the age of the last one.

    The age is in seconds; without a backup, it is that of the log.
    """
    (row,) = await _rows(connection, SELECT_STORAGE)
    return row


async def load_projection_locks(connection: AsyncConnection) -> list[Row]:
    """Return the projection and the server process of each lock that a projector holds."""
    return await _rows(connection, SELECT_PROJECTION_LOCKS)


async def load_blockers(connection: AsyncConnection, pids: Collection[int]) -> dict[int, list[int]]:
    """Return the server processes that block each of these, without those that are not blocked."""
    if not pids:
        return {}
    cursor = await connection.execute(SELECT_BLOCKERS, (list(pids),))
    return {pid: blockers for pid, blockers in await cursor.fetchall() if blockers}


async def load_rebuilds(connection: AsyncConnection) -> list[Row]:
    """Return projection, state, processed and total events of the rebuilds that have not ended."""
    return await _rows(connection, SELECT_REBUILDS)


async def load_coverage_checks(connection: AsyncConnection) -> list[Row]:
    """Return projection, checked position and time of the last full check, of each projection."""
    return await _rows(connection, SELECT_CHECKS)


async def load_projector_batches(connection: AsyncConnection) -> list[Row]:
    """Return source, events, seconds and the histograms of batches by events and by seconds."""
    return await _rows(connection, SELECT_BATCHES)


async def load_processes(
    connection: AsyncConnection, topics: Mapping[str, Collection[str]]
) -> list[Row]:
    """Return the progress of process managers; `topics` are those each must react to promptly.

    Columns: process, position, events behind, seconds behind, waiting commands, age of the oldest
    of them in seconds, seconds since the first unread event of `topics`, seconds since the last
    progress.
    """
    known = [{"process": name, "topics": sorted(each)} for name, each in topics.items()]
    cursor = await connection.execute(SELECT_PROCESSES, (orjson.dumps(known).decode(),))
    return await cursor.fetchall()


async def load_breakers(connection: AsyncConnection) -> list[Row]:
    """Return name, state, failures and remaining wait in seconds of each circuit breaker."""
    return await _rows(connection, SELECT_BREAKERS)


async def load_open_jobs(connection: AsyncConnection) -> Row:
    """Return the number of open jobs, the age of the oldest, and seconds since one was claimed."""
    (row,) = await _rows(connection, SELECT_JOBS)
    return row


async def load_migrations(connection: AsyncConnection) -> set[str]:
    """Return the names of the migrations that were applied."""
    return {row[0] for row in await _rows(connection, SELECT_MIGRATIONS)}


async def _rows(connection: AsyncConnection, statement: str) -> list[Row]:
    cursor = await connection.execute(statement.encode())
    return await cursor.fetchall()
