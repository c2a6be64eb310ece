"""The history of one entity: its events, who caused them, before and after."""

from __future__ import annotations

from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from eventlog.changes_sql import CHANGES
from projections.audit import ACTIONS, UNDO

HISTORY_PAGE_DEFAULT = 100
HISTORY_PAGE_MAX = 1_000
ACTIONS_JSON = orjson.dumps(ACTIONS).decode()

HISTORY = f"""
WITH page AS (
    SELECT e.* FROM events AS e
     WHERE e.workspace_id = %(workspace)s AND e.stream_id = %(stream)s
       AND e.stream_version > %(after)s AND e.topic LIKE %(topics)s
     ORDER BY e.stream_version LIMIT %(limit)s + 1
), numbered AS (
    SELECT e.*, row_number() OVER (ORDER BY e.stream_version) AS ordinal FROM page AS e
)
SELECT coalesce(json_agg(json_build_object(
           'position', e.position, 'version', e.stream_version, 'topic', e.topic,
           'action', CASE WHEN e.metadata->>'undoesPosition' IS NOT NULL THEN '{UNDO}'
                          ELSE %(actions)s::jsonb->>e.topic END,
           'undoes', e.metadata->>'undoes',
           'undoesPosition', (e.metadata->>'undoesPosition')::bigint,
           'actor', e.metadata->'actor',
           'occurredAt', e.occurred_at, 'recordedAt', e.recorded_at,
           'requestId', e.metadata->>'requestId', 'command', e.metadata->>'command',
           'commandId', e.metadata->>'commandId', 'causationId', e.metadata->>'causationId',
           'ip', e.metadata->>'ip', 'userAgent', e.metadata->>'userAgent',
           'changes', {CHANGES}) ORDER BY e.ordinal)
           FILTER (WHERE e.ordinal <= %(limit)s), '[]')::text,
       CASE WHEN count(*) > %(limit)s THEN
           max(e.stream_version) FILTER (WHERE e.ordinal <= %(limit)s) END,
       count(*)
  FROM numbered AS e
"""


async def entity_history(
    connection: AsyncConnection[TupleRow],
    workspace_id: UUID,
    kind: str,
    entity_id: UUID,
    *,
    after_version: int,
    limit: int,
) -> bytes | None:
    """`{items, nextCursor}` as JSON, oldest first; None where there is no such entity.

    The cursor is the version after which to go on.
    """
    parameters = {
        "workspace": workspace_id,
        "stream": entity_id,
        "topics": f"{kind}.%",
        "after": after_version,
        "limit": limit,
        "actions": ACTIONS_JSON,
    }
    row = await (await connection.execute(HISTORY, parameters)).fetchone()
    assert row is not None
    if row[2] == 0 and after_version == 0:
        return None
    cursor = "null" if row[1] is None else str(row[1])
    return f'{{"items":{row[0]},"nextCursor":{cursor}}}'.encode()
