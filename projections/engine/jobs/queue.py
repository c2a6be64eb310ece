"""Requested jobs on projections: rebuild, rollback, retry.

A request is a row (`request_projection_job`). One projector process at a time starts a process for
each requested job. That process holds a lock while it runs, so a started job whose lock is free has
lost its process and is marked as failed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from eventlog.connections import Connection
from eventlog.locks import LEADER_LOCK, PROJECTION_JOB_LOCK, REBUILD_LOCK, try_lock

ORPHANED_AFTER_S = 5.0
"""A started job whose lock is free counts as orphaned this long after its last progress."""

TRY_JOB_LOCK = "SELECT pg_try_advisory_lock(%s, %s)"

SELECT_REQUESTED = """
SELECT id, projection, kind, throttle_events_per_s, CASE WHEN replaces THEN reason END
  FROM projection_rebuilds
 WHERE state = 'requested' AND ended_at IS NULL ORDER BY id LIMIT 20
"""
SELECT_JOB = """
SELECT id, projection, kind, throttle_events_per_s, CASE WHEN replaces THEN reason END
  FROM projection_rebuilds WHERE id = %s
"""
CLAIM = """
UPDATE projection_rebuilds
   SET state = CASE WHEN state <> 'requested' THEN state
                    WHEN kind IN ('rebuild', 'verify') THEN 'building'
                    WHEN kind = 'rollback' THEN 'swapping'
                    ELSE 'retrying' END,
       version = %s, started_at = clock_timestamp(), updated_at = clock_timestamp()
 WHERE id = %s AND ended_at IS NULL AND state IN ('requested', 'cancelling')
RETURNING state
"""
END = """
UPDATE projection_rebuilds
   SET state = %(state)s, message = %(message)s, summary = %(summary)s,
       ended_at = clock_timestamp(), updated_at = clock_timestamp()
 WHERE id = %(id)s AND ended_at IS NULL
"""
# pg_locks shows a lock's keys as oids, in which a negative integer appears as a large number.
FAIL_ORPHANED = f"""
UPDATE projection_rebuilds AS r
   SET state = CASE state WHEN 'cancelling' THEN 'cancelled' ELSE 'failed' END,
       summary = CASE state WHEN 'cancelling' THEN '' ELSE 'its process died' END,
       ended_at = clock_timestamp(), updated_at = clock_timestamp()
 WHERE ended_at IS NULL AND state <> 'requested' AND NOT id = ANY(%s)
   AND updated_at < clock_timestamp() - make_interval(secs => {ORPHANED_AFTER_S})
   AND NOT EXISTS (
       SELECT FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND (l.classid::bigint, l.objid::bigint) IN (
              ({REBUILD_LOCK}, hashtext(r.projection)::bigint & 4294967295),
              ({PROJECTION_JOB_LOCK}, r.id & 4294967295)))
RETURNING id, projection, state
"""

WHOLE_LOG = "log"
"""In the place of a projection: the job checks the whole log and what all projections consumed."""

ProjectionJobKind = Literal["rebuild", "rollback", "retry", "verify"]


@dataclass(frozen=True)
class ProjectionJob:
    """A requested job."""

    id: int
    projection: str
    kind: ProjectionJobKind
    throttle_events_per_s: float | None
    replace_because: str | None
    """Why a rebuild replaces the live rows without a comparison; None if it compares."""


def is_leader(connection: Connection, task: str) -> bool:
    """Whether this connection holds the task's leader lock, taking it if it is free."""
    return try_lock(connection, LEADER_LOCK, task)


def load_requested(connection: Connection) -> list[ProjectionJob]:
    """Load the jobs that have not been started, oldest first."""
    return [ProjectionJob(*row) for row in connection.execute(SELECT_REQUESTED)]


def find_job(connection: Connection, job_id: int) -> ProjectionJob | None:
    """Find a job by id."""
    row = connection.execute(SELECT_JOB, (job_id,)).fetchone()
    return ProjectionJob(*row) if row else None


def claim(connection: Connection, job_id: int, version: str) -> bool:
    """Start a job, and lock it for this connection. False if it was cancelled or is taken."""
    row = connection.execute(TRY_JOB_LOCK, (PROJECTION_JOB_LOCK, job_id)).fetchone()
    if not (row and row[0]):
        return False
    row = connection.execute(CLAIM, (version, job_id)).fetchone()
    if row and row[0] == "cancelling":
        end(connection, job_id, "cancelled")
        return False
    return row is not None


def end(
    connection: Connection, job_id: int, state: str, *, summary: str = "", message: str = ""
) -> None:
    """Record the end of a job, unless it was recorded before."""
    connection.execute(END, {"id": job_id, "state": state, "summary": summary, "message": message})


def is_open(connection: Connection, job_id: int) -> bool:
    """Whether the job's end has not been recorded."""
    row = connection.execute(
        "SELECT FROM projection_rebuilds WHERE id = %s AND ended_at IS NULL", (job_id,)
    ).fetchone()
    return row is not None


def fail_orphaned(connection: Connection, alive: Collection[int]) -> list[tuple[int, str, str]]:
    """Mark jobs whose process is gone as failed, except those in `alive`.

    A job that was being cancelled is marked as cancelled. Returns id, projection and state of each.
    """
    rows = connection.execute(FAIL_ORPHANED, (list(alive),))
    return [(row[0], row[1], row[2]) for row in rows]
