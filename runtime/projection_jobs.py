"""Jobs on projections as the API sees them: asked for, planned, shown, cancelled.

The API's role writes down what is wanted and nothing more; a projector process does it
(`attendant`). What is shown tells nothing of any workspace's rows.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from eventlog.connections import Connection
from projections.engine.install import READ_SCHEMA
from projections.engine.rebuild.jobs import ProjectionJobKind
from projections.engine.rebuild.runner import EVENTS_PER_S_DEFAULT, MEASURED_RATE, RebuildPlan
from projections.engine.rebuild.swap import previous_name
from projections.engine.registry import PROJECTIONS, version
from readmodels import table_definitions
from readmodels.pool import AsyncConnection

JOBS_SHOWN_MAX = 50

REQUEST = "SELECT request_projection_job(%s, %s, %s, %s, %s)"
CANCEL = "SELECT cancel_projection_job(%s, %s)"

SHOWN = """
SELECT json_build_object(
           'id', id, 'projection', projection, 'kind', kind, 'state', state,
           'processed', processed, 'total', total,
           'ratePerSecond', round(rate::numeric, 1)::float,
           'secondsLeft', CASE WHEN ended_at IS NULL AND rate > 0
                               THEN round(greatest(total - processed, 0) / rate)::bigint END,
           'throttle', throttle_events_per_s, 'message', summary,
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
SELECT_LAST = f"{SHOWN} WHERE projection = %s ORDER BY id DESC LIMIT {JOBS_SHOWN_MAX}"
SELECT_OPEN_ID = "SELECT id FROM projection_rebuilds WHERE projection = %s AND ended_at IS NULL"

# What a projection has consumed is in its ledger, which is a thousandth of the log's size.
PLAN = """
SELECT (SELECT coalesce(sum(n), 0)::bigint FROM projection_coverage WHERE projection = p.name),
       p.version
  FROM projections AS p WHERE p.name = %s
"""
TABLE_BYTES = "SELECT coalesce(pg_total_relation_size(to_regclass(%s)), 0)"
HAS_PREVIOUS = "SELECT EXISTS (SELECT FROM projections WHERE name = %s)"


def ask(
    connection: Connection,
    projection: str,
    kind: ProjectionJobKind,
    key_id: UUID,
    throttle: float | None = None,
) -> int | None:
    """Write down what is wanted; its id, or None where something is under way already."""
    wanted = version(projection, table_definitions()[projection])
    asked = (projection, kind, wanted, throttle, f"key {key_id}")
    row = connection.execute(REQUEST, asked).fetchone()
    assert row is not None
    return None if row[0] is None else int(row[0])


def cancel(connection: Connection, projection: str, job_id: int) -> bool:
    """Ask a job to stop; False where it has ended."""
    row = connection.execute(CANCEL, (projection, job_id)).fetchone()
    return bool(row and row[0])


def has_previous(connection: Connection, projection: str) -> bool:
    """Whether tables from before the last swap are kept."""
    row = connection.execute(HAS_PREVIOUS, (previous_name(projection),)).fetchone()
    return bool(row and row[0])


async def job_as_json(connection: AsyncConnection, projection: str, job_id: int) -> bytes | None:
    """One job as JSON."""
    cursor = await connection.execute(SELECT_ONE, (projection, job_id))
    row = await cursor.fetchone()
    return bytes(row[0]) if row else None


async def last_jobs_as_json(connection: AsyncConnection, projection: str) -> bytes:
    """The newest jobs of a projection, the newest first, as a JSON array."""
    cursor = await connection.execute(SELECT_LAST, (projection,))
    return b"[" + b",".join([bytes(row[0]) for row in await cursor.fetchall()]) + b"]"


async def plan(connection: AsyncConnection, projection: str) -> RebuildPlan:
    """What a rebuild would do; the events are those that the projection has consumed."""
    events, live_version = await _row(connection, PLAN, projection)
    (rate,) = await _row(connection, MEASURED_RATE, projection, EVENTS_PER_S_DEFAULT)
    size = 0
    for table in PROJECTIONS[projection].tables:
        (size_bytes,) = await _row(connection, TABLE_BYTES, f"{READ_SCHEMA}.{table.name}")
        size += size_bytes
    wanted = version(projection, table_definitions()[projection])
    return RebuildPlan(projection, events, events / rate, size, live_version, wanted)


async def _row(connection: AsyncConnection, statement: str, *parameters: object) -> tuple[Any, ...]:
    cursor = await connection.execute(statement.encode(), parameters)
    row = await cursor.fetchone()
    assert row is not None
    return row
