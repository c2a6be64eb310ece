"""Jobs on projections that were asked for in writing: rebuild, rollback, retry.

Whoever asks writes a row (`request_projection_job`). One projector process at a time looks for
such rows and has each done by a process of its own, which holds a lock while it lives: a job that
nobody holds any more has died, and is said to have.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from eventlog.connections import Connection
from eventlog.locks import LEADER_LOCK, PROJECTION_JOB_LOCK, REBUILD_LOCK

GRACE_S = 5.0
"""So long after its last sign of life a job that nobody holds is taken for dead."""

TRY_LOCK = "SELECT pg_try_advisory_lock(%s, %s)"
TRY_DUTY = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"

SELECT_WAITING = """
SELECT id, projection, kind, throttle_events_per_s FROM projection_rebuilds
 WHERE state = 'requested' AND ended_at IS NULL ORDER BY id LIMIT 20
"""
CLAIM = """
UPDATE projection_rebuilds
   SET state = CASE state WHEN 'requested' THEN CASE kind WHEN 'rebuild' THEN 'building'
                          WHEN 'rollback' THEN 'swapping' ELSE 'retrying' END ELSE state END,
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
# A lock's key as pg_locks has it: two oids, for which a negative integer is a large number.
BURY = f"""
UPDATE projection_rebuilds AS r
   SET state = CASE state WHEN 'cancelling' THEN 'cancelled' ELSE 'failed' END,
       summary = CASE state WHEN 'cancelling' THEN '' ELSE 'its process died' END,
       ended_at = clock_timestamp(), updated_at = clock_timestamp()
 WHERE ended_at IS NULL AND state <> 'requested' AND NOT id = ANY(%s)
   AND updated_at < clock_timestamp() - make_interval(secs => {GRACE_S})
   AND NOT EXISTS (
       SELECT FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND (l.classid::bigint, l.objid::bigint) IN (
              ({REBUILD_LOCK}, hashtext(r.projection)::bigint & 4294967295),
              ({PROJECTION_JOB_LOCK}, r.id & 4294967295)))
RETURNING id, projection, state
"""

ProjectionJobKind = Literal["rebuild", "rollback", "retry"]


@dataclass(frozen=True)
class ProjectionJob:
    """What was asked for."""

    id: int
    projection: str
    kind: ProjectionJobKind
    throttle_events_per_s: float | None


def is_leader(connection: Connection, duty: str) -> bool:
    """Whether this connection looks after the duty, from now on or already."""
    row = connection.execute(TRY_DUTY, (LEADER_LOCK, duty)).fetchone()
    return bool(row and row[0])


def waiting(connection: Connection) -> list[ProjectionJob]:
    """What nobody has begun yet, the oldest first."""
    return [ProjectionJob(*row) for row in connection.execute(SELECT_WAITING)]


def find_job(connection: Connection, job_id: int) -> ProjectionJob | None:
    """The job with this id."""
    row = connection.execute(
        "SELECT id, projection, kind, throttle_events_per_s FROM projection_rebuilds WHERE id = %s",
        (job_id,),
    ).fetchone()
    return ProjectionJob(*row) if row else None


def claim(connection: Connection, job_id: int, version: str) -> bool:
    """Begin, and hold the job by this connection; False where it is not to be begun (any more)."""
    held = connection.execute(TRY_LOCK, (PROJECTION_JOB_LOCK, job_id)).fetchone()
    if not (held and held[0]):
        return False
    row = connection.execute(CLAIM, (version, job_id)).fetchone()
    if row and row[0] == "cancelling":
        end(connection, job_id, "cancelled")
        return False
    return row is not None


def end(
    connection: Connection, job_id: int, state: str, *, summary: str = "", message: str = ""
) -> None:
    """The job has ended; where that was written down already, it stays as it is."""
    connection.execute(END, {"id": job_id, "state": state, "summary": summary, "message": message})


def is_open(connection: Connection, job_id: int) -> bool:
    """Whether its end is still to be written down."""
    row = connection.execute(
        "SELECT FROM projection_rebuilds WHERE id = %s AND ended_at IS NULL", (job_id,)
    ).fetchone()
    return row is not None


def fail_orphaned(connection: Connection, alive: Collection[int]) -> list[tuple[int, str, str]]:
    """End what died without a word, `alive` excepted; id, projection and state of each."""
    return [(row[0], row[1], row[2]) for row in connection.execute(BURY, (list(alive),))]
