"""Requests for projection jobs: rebuild, rollback and retry.

The API's role only writes the request and reads the progress; a projector process does the work
(`projections.engine.jobs.queue`). Nothing here shows rows of a workspace.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import TupleRow

from eventlog.connections import Connection
from projections.engine.install import READ_SCHEMA
from projections.engine.jobs.queue import WHOLE_LOG, ProjectionJobKind
from projections.engine.jobs.refusals import (
    NoPreviousTables,
    ProjectionJobEnded,
    ProjectionJobInProgress,
)
from projections.engine.names import previous_name
from projections.engine.rebuild.plan import (
    EVENTS_PER_S_DEFAULT,
    MEASURED_RATE,
    TABLE_BYTES,
    RebuildPlan,
)
from projections.engine.registry import PROJECTIONS, version

AsyncConnection = psycopg.AsyncConnection[TupleRow]

JOBS_SHOWN_MAX = 50

REQUEST = "SELECT request_projection_job(%s, %s, %s, %s, %s, %s, %s)"
CANCEL = "SELECT cancel_projection_job(%s, %s)"

SHOWN = """
SELECT json_build_object(
           'id', id, 'projection', projection, 'kind', kind, 'state', state,
           'processed', processed, 'total', total,
           'ratePerSecond', round(rate::numeric, 1)::float,
           'secondsLeft', CASE WHEN ended_at IS NULL AND rate > 0
                               THEN round(greatest(total - processed, 0) / rate)::bigint END,
           'throttle', throttle_events_per_s, 'replace', replaces, 'reason', nullif(reason, ''),
           'message', summary,
           'details', CASE WHEN projection = 'log' THEN message END,
           'requestedAt', requested_at,
           'startedAt', CASE WHEN state <> 'requested' THEN started_at END,
           'endedAt', ended_at)
  FROM projection_rebuilds,
       LATERAL (SELECT CASE WHEN state <> 'requested' AND processed > 0
                            THEN processed / greatest(extract(epoch FROM
                                 coalesce(ended_at, clock_timestamp()) - started_at), 0.001)
                       END::float) AS measured(rate)
"""
SELECT_ONE = f"{SHOWN} WHERE projection = %s AND id = %s"
SELECT_LATEST = f"{SHOWN} WHERE projection = %s ORDER BY id DESC LIMIT {JOBS_SHOWN_MAX}"

# The number of events a projection has consumed is in its ledger, a thousandth of the log's size.
PLAN = """
SELECT (SELECT coalesce(sum(n), 0)::bigint FROM projection_coverage WHERE projection = p.name),
       p.version
  FROM projections AS p WHERE p.name = %s
"""
CHECK_REUSED_FOR_S = 60.0
"""Seconds after its end for which a check of the log is returned instead of a new one."""
CHECK_SHARE = 0.1
"""The share of the time in which checks that tenants request may read the log, at most."""
SELECT_RECENT_CHECK = """
SELECT id FROM projection_rebuilds
 WHERE projection = %s AND kind = 'verify'
   AND (ended_at IS NULL
        OR ended_at + greatest(make_interval(secs => %s), %s * (ended_at - started_at))
           > clock_timestamp())
 ORDER BY id DESC LIMIT 1
"""
HAS_PREVIOUS = "SELECT EXISTS (SELECT FROM projections WHERE name = %s)"


def request_job(
    connection: Connection,
    projection: str,
    kind: ProjectionJobKind,
    definition: str,
    *,
    requested_by: str,
    throttle_events_per_s: float | None = None,
    replace_because: str | None = None,
) -> int:
    """Request a job on a projection, whose tables have this definition; return the job's id.

    replace_because: why a rebuild replaces the live rows without comparing them; None to compare.
    Raises `NoPreviousTables` for a rollback if no tables are kept from before the last swap, and
    `ProjectionJobInProgress`.
    """
    if kind == "rollback" and not _has_previous(connection, projection):
        raise NoPreviousTables
    new_version = version(projection, definition)
    replaces, reason = replace_because is not None, replace_because or ""
    parameters = (
        *(projection, kind, new_version, throttle_events_per_s, requested_by),
        *(replaces, reason),
    )
    row = connection.execute(REQUEST, parameters).fetchone()
    assert row is not None
    if row[0] is None:
        raise ProjectionJobInProgress
    return int(row[0])


def request_log_check(connection: Connection, *, requested_by: str, is_operator: bool) -> int:
    """Request a check of the whole log; return the job's id.

    One that has not ended, or ended less than `CHECK_REUSED_FOR_S` ago, is returned instead: the
    check reads the whole log, and its result is the same for everyone. For a tenant, a check that
    took long is returned for longer, so that tenants have no more than `CHECK_SHARE` of the time.
    """
    pause = 0.0 if is_operator else 1 / CHECK_SHARE - 1
    recent = (WHOLE_LOG, CHECK_REUSED_FOR_S, pause)
    row = connection.execute(SELECT_RECENT_CHECK, recent).fetchone()
    if row is None:
        parameters = (WHOLE_LOG, "verify", "", None, requested_by, False, "")
        row = connection.execute(REQUEST, parameters).fetchone()
    if row is None or row[0] is None:  # another request was faster
        row = connection.execute(SELECT_RECENT_CHECK, recent).fetchone()
    assert row is not None
    return int(row[0])


def request_cancellation(connection: Connection, projection: str, job_id: int) -> None:
    """Ask a job to stop. Raises `ProjectionJobEnded`."""
    row = connection.execute(CANCEL, (projection, job_id)).fetchone()
    if not (row and row[0]):
        raise ProjectionJobEnded


def _has_previous(connection: Connection, projection: str) -> bool:
    row = connection.execute(HAS_PREVIOUS, (previous_name(projection),)).fetchone()
    return bool(row and row[0])


async def load_job(connection: AsyncConnection, projection: str, job_id: int) -> bytes | None:
    """Return one job as JSON; None if the projection has no job with this id."""
    cursor = await connection.execute(SELECT_ONE, (projection, job_id))
    row = await cursor.fetchone()
    return bytes(row[0]) if row else None


async def load_latest_jobs(connection: AsyncConnection, projection: str) -> bytes:
    """Return the latest JOBS_SHOWN_MAX jobs of a projection, newest first, as a JSON array."""
    cursor = await connection.execute(SELECT_LATEST, (projection,))
    return b"[" + b",".join([bytes(row[0]) for row in await cursor.fetchall()]) + b"]"


async def plan_rebuild(
    connection: AsyncConnection, projection: str, definition: str
) -> RebuildPlan:
    """Return what a rebuild would do. It counts the events that the projection has consumed."""
    events, live_version = await _row(connection, PLAN, projection)
    (rate,) = await _row(connection, MEASURED_RATE, projection, EVENTS_PER_S_DEFAULT)
    size = 0
    for table in PROJECTIONS[projection].tables:
        (size_bytes,) = await _row(connection, TABLE_BYTES, f"{READ_SCHEMA}.{table.name}")
        size += size_bytes
    new_version = version(projection, definition)
    return RebuildPlan(projection, events, events / rate, size, live_version, new_version)


async def _row(connection: AsyncConnection, statement: str, *parameters: object) -> tuple[Any, ...]:
    cursor = await connection.execute(statement.encode(), parameters)
    row = await cursor.fetchone()
    assert row is not None
    return row
