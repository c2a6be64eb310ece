"""Jobs: how far they are, and what went wrong."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson

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
    """A job at one version, as JSON."""

    version: int
    has_ended: bool
    content: bytes


@dataclass(frozen=True)
class JobsQuery:
    """What is asked of the list of jobs; newest first. `before` is the last of the page before."""

    workspace_id: UUID
    status: str | None = None
    kind: str | None = None
    before: tuple[datetime, UUID] | None = None
    limit: int = JOBS_PAGE_DEFAULT


@dataclass(frozen=True)
class JobsPage:
    """Items as a JSON array, without the errors of each; the last item where more follow."""

    items: bytes
    last: tuple[datetime, UUID] | None


async def job_states(
    connection: AsyncConnection, workspace_id: UUID, ids: Collection[UUID]
) -> dict[UUID, JobState]:
    """Those of these jobs that there are in the workspace."""
    cursor = await connection.execute(STATES, (workspace_id, list(ids)))
    return {
        row[0]: JobState(version=row[1], has_ended=row[2], content=row[3].encode())
        for row in await cursor.fetchall()
    }


async def jobs_page(connection: AsyncConnection, query: JobsQuery) -> JobsPage:
    """One page of the workspace's jobs."""
    before, before_id = query.before or (None, None)
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
    return JobsPage(items.encode(), _last(last) if last else None)


def _last(text: str) -> tuple[datetime, UUID]:
    at, job_id = orjson.loads(text)
    return datetime.fromisoformat(at), UUID(job_id)


async def job_errors(
    connection: AsyncConnection, workspace_id: UUID, job_id: UUID, *, after: int, limit: int
) -> bytes:
    """`{items, nextCursor}` as JSON: the errors after the number `after`, in order."""
    parameters = {"workspace": workspace_id, "job": job_id, "after": after, "limit": limit}
    row = await (await connection.execute(ERRORS, parameters)).fetchone()
    assert row is not None
    items, last = row
    return f'{{"items":{items},"nextCursor":{"null" if last is None else last}}}'.encode()
