"""Jobs: their progress and their errors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import orjson

from readmodels.cursors import InvalidCursor, decode_cursor, encode_cursor
from readmodels.pool import AsyncConnection

JOBS_PAGE_DEFAULT = 50
JOBS_PAGE_MAX = 500
ERRORS_PAGE_DEFAULT = 100
ERRORS_PAGE_MAX = 1_000

SUMMARY = """
'id', j.id, 'kind', j.kind, 'status', j.status, 'total', j.total, 'processed', j.processed,
'succeeded', j.succeeded, 'failed', j.failed, 'counts', j.counts, 'errorsTotal', j.errors_total,
'failure', j.failure, 'parameters', j.parameters, 'commandId', j.command_id,
'requestedBy', j.requested_by, 'createdAt', j.created_at, 'startedAt', j.started_at,
'endedAt', j.ended_at, 'updatedAt', j.updated_at, 'version', j.version
"""
STATES = f"""
SELECT j.id, j.version, j.ended_at IS NOT NULL, json_build_object({SUMMARY},
           'errors', (SELECT coalesce(json_agg(e.value ORDER BY e.key::integer), '[]')
                        FROM jsonb_each(j.errors) AS e))::text
  FROM read.jobs AS j WHERE j.workspace_id = %s AND j.id = ANY(%s)
"""
PAGE = f"""
WITH page AS MATERIALIZED (
    SELECT j.*, row_number() OVER (ORDER BY j.created_at DESC, j.id DESC) AS ordinal
      FROM (SELECT * FROM read.jobs AS j
             WHERE j.workspace_id = %(workspace)s
               AND (%(status)s::text IS NULL OR j.status = %(status)s)
               AND (%(kind)s::text IS NULL OR j.kind = %(kind)s)
               AND (%(before)s::timestamptz IS NULL
                    OR (j.created_at, j.id) < (%(before)s, %(before_id)s::uuid))
             ORDER BY j.created_at DESC, j.id DESC LIMIT %(limit)s + 1) AS j
)
SELECT coalesce(json_agg(json_build_object({SUMMARY}) ORDER BY ordinal)
                FILTER (WHERE ordinal <= %(limit)s), '[]')::text,
       CASE WHEN count(*) > %(limit)s THEN
           json_build_array((array_agg(created_at ORDER BY ordinal))[%(limit)s],
                            (array_agg(id ORDER BY ordinal))[%(limit)s])::text END
  FROM page AS j
"""
ERRORS = """
SELECT coalesce(json_agg(error ORDER BY number) FILTER (WHERE ordinal <= %(limit)s), '[]')::text,
       CASE WHEN count(*) > %(limit)s THEN
           max(number) FILTER (WHERE ordinal <= %(limit)s) END
  FROM (SELECT number, error, row_number() OVER (ORDER BY number) AS ordinal
          FROM (SELECT number, error FROM job_errors
                 WHERE workspace_id = %(workspace)s AND job_id = %(job)s AND number > %(after)s
                 ORDER BY number LIMIT %(limit)s + 1) AS page) AS numbered
"""


@dataclass(frozen=True)
class JobState:
    """A job at one version; `content` is its JSON."""

    version: int
    has_ended: bool
    content: bytes


@dataclass(frozen=True)
class JobsQuery:
    """A page of the list of jobs, newest first."""

    workspace_id: UUID
    status: str | None = None
    kind: str | None = None
    cursor: str | None = None
    limit: int = JOBS_PAGE_DEFAULT


async def job_states(
    connection: AsyncConnection, workspace_id: UUID, ids: Collection[UUID]
) -> dict[UUID, JobState]:
    """Load the jobs with these ids, by id, without those that the workspace does not have."""
    cursor = await connection.execute(STATES, (workspace_id, list(ids)))
    return {
        row[0]: JobState(version=row[1], has_ended=row[2], content=row[3].encode())
        for row in await cursor.fetchall()
    }


async def jobs_page(connection: AsyncConnection, query: JobsQuery) -> bytes:
    """`{items, nextCursor}` as JSON; items have no errors. Raises `InvalidCursor`."""
    before, before_id = _decode(query.cursor) if query.cursor is not None else (None, None)
    parameters = {
        "workspace": query.workspace_id,
        "status": query.status,
        "kind": query.kind,
        "before": before,
        "before_id": before_id,
        "limit": query.limit,
    }
    row = await (await connection.execute(PAGE, parameters)).fetchone()
    assert row is not None
    items, last = row
    cursor = _encode(*orjson.loads(last)) if last else None
    return orjson.dumps({"items": orjson.Fragment(items), "nextCursor": cursor})


def _encode(created_at: str, job_id: str) -> str:
    # PostgreSQL omits trailing zeros of a time, isoformat does not.
    created = datetime.fromisoformat(created_at).isoformat()
    return encode_cursor(orjson.dumps([created, job_id]))


def _decode(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, job_id = decode_cursor(cursor)
        # In UTC, because PostgreSQL refuses zones of 16 hours and more.
        return datetime.fromisoformat(created_at).astimezone(UTC), UUID(job_id)
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise InvalidCursor from None


async def job_errors(
    connection: AsyncConnection, workspace_id: UUID, job_id: UUID, *, after: int, limit: int
) -> bytes:
    """`{items, nextCursor}` as JSON: the errors with numbers above `after`, in order."""
    parameters = {"workspace": workspace_id, "job": job_id, "after": after, "limit": limit}
    row = await (await connection.execute(ERRORS, parameters)).fetchone()
    assert row is not None
    items, last = row
    return f'{{"items":{items},"nextCursor":{"null" if last is None else last}}}'.encode()
