"""The audit trail: who changed what, when, from where, before and after."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from eventlog.changes_sql import CHANGES
from readmodels.pool import AsyncConnection

AUDIT_PAGE_DEFAULT = 50
AUDIT_PAGE_MAX = 500

PAGE = f"""
WITH page AS MATERIALIZED (
    SELECT a.* FROM read.audit AS a
     WHERE a.workspace_id = %(workspace)s
       AND (%(entity_type)s::text IS NULL OR a.entity_type = %(entity_type)s)
       AND (%(entity_id)s::uuid IS NULL OR a.entity_id = %(entity_id)s)
       AND (%(action)s::text IS NULL OR a.action = %(action)s)
       AND (%(actor_id)s::text IS NULL OR a.actor_id = %(actor_id)s)
       AND (%(since)s::timestamptz IS NULL OR a.recorded_at >= %(since)s)
       AND (%(until)s::timestamptz IS NULL OR a.recorded_at < %(until)s)
       AND (%(cursor)s::bigint IS NULL OR a.position < %(cursor)s)
     ORDER BY a.position DESC LIMIT %(limit)s + 1
), numbered AS (
    SELECT a.*, row_number() OVER () AS ordinal FROM page AS a
)
SELECT coalesce(json_agg(json_build_object(
           'position', e.position, 'entityType', a.entity_type, 'entityId', a.entity_id,
           'action', a.action, 'topic', e.topic, 'version', e.stream_version,
           'accountId', e.account_id, 'actor', e.metadata->'actor',
           'occurredAt', e.occurred_at, 'recordedAt', e.recorded_at,
           'ip', e.metadata->>'ip', 'userAgent', e.metadata->>'userAgent',
           'requestId', e.metadata->>'requestId', 'command', e.metadata->>'command',
           'commandId', e.metadata->>'commandId', 'undoes', e.metadata->>'undoes',
           'undoesPosition', (e.metadata->>'undoesPosition')::bigint,
           'correlationId', e.metadata->>'correlationId',
           'causationId', e.metadata->>'causationId',
           'changes', {CHANGES}) ORDER BY a.ordinal)
           FILTER (WHERE a.ordinal <= %(limit)s), '[]')::text,
       CASE WHEN count(*) > %(limit)s THEN
           min(a.position) FILTER (WHERE a.ordinal <= %(limit)s) END
  FROM numbered AS a JOIN events AS e ON e.position = a.position
   AND e.workspace_id = a.workspace_id
"""


OF_COMMAND = """
SELECT array(SELECT position FROM read.audit
              WHERE workspace_id = %(workspace)s AND command_id = %(command)s
                AND entity_type <> 'job'
              ORDER BY position LIMIT %(limit)s),
       EXISTS (SELECT FROM projection_parked
                WHERE projection = 'audit' AND workspace_id = %(workspace)s)
"""


@dataclass(frozen=True)
class AuditQuery:
    """What is asked of the audit trail; newest first. Times are those of recording."""

    workspace_id: UUID
    entity_type: str | None = None
    entity_id: UUID | None = None
    action: str | None = None
    actor_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    cursor: int | None = None
    limit: int = AUDIT_PAGE_DEFAULT


async def audit_page(connection: AsyncConnection, query: AuditQuery) -> bytes:
    """`{items, nextCursor}` as JSON; the cursor is a position, pages go from it downwards."""
    parameters = {
        "workspace": query.workspace_id,
        "entity_type": query.entity_type,
        "entity_id": query.entity_id,
        "action": query.action,
        "actor_id": query.actor_id,
        "since": query.since,
        "until": query.until,
        "cursor": query.cursor,
        "limit": query.limit,
    }
    row = await (await connection.execute(PAGE, parameters)).fetchone()
    assert row is not None
    cursor = "null" if row[1] is None else str(row[1])
    return f'{{"items":{row[0]},"nextCursor":{cursor}}}'.encode()


async def positions_of_command(
    connection: AsyncConnection, workspace_id: UUID, command_id: str, limit: int
) -> list[int] | None:
    """Positions of what the command did to entities, `limit` at the most, in order.

    A job that it did it by is left out: how far it came is nothing that could be taken back.

    None where the trail has a hole in this workspace (parked entities), so that some might be
    missing. The trail is as old as its checkpoint: wait for that first.
    """
    parameters = {"workspace": workspace_id, "command": command_id, "limit": limit}
    row = await (await connection.execute(OF_COMMAND, parameters)).fetchone()
    assert row is not None
    positions, has_holes = row
    return None if has_holes else list(positions)
