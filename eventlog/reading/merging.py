"""Which entity was merged into which."""

from __future__ import annotations

from uuid import UUID

from eventlog.connections import AsyncConnection

# The last event of an entity says whether it was merged, and into which one.
SELECT_SURVIVOR = """
WITH RECURSIVE merged(id, into_id, n) AS (
    SELECT %(id)s::uuid, last.into_id, 1
      FROM (SELECT (data->>'mergedInto')::uuid AS into_id, topic FROM events
             WHERE workspace_id = %(workspace)s AND stream_id = %(id)s
             ORDER BY stream_version DESC LIMIT 1) AS last
     WHERE last.topic LIKE %(kind)s || '.%%'
    UNION ALL
    SELECT m.into_id, last.into_id, m.n + 1
      FROM merged AS m, LATERAL (
           SELECT (data->>'mergedInto')::uuid AS into_id FROM events
            WHERE workspace_id = %(workspace)s AND stream_id = m.into_id
            ORDER BY stream_version DESC LIMIT 1) AS last
     WHERE m.into_id IS NOT NULL AND m.n < 100
)
SELECT (SELECT into_id FROM merged WHERE n = 1),
       (SELECT into_id FROM merged WHERE into_id IS NOT NULL ORDER BY n DESC LIMIT 1)
"""
MERGED = """
merged(id) AS (
    SELECT %(stream)s::uuid
    UNION
    SELECT (m.data->>'other')::uuid FROM merged AS o JOIN events AS m ON m.stream_id = o.id
     WHERE m.workspace_id = %(workspace)s AND m.topic = %(kind)s || '.merged'
       AND (SELECT last.data->>'mergedInto' FROM events AS last
             WHERE last.workspace_id = %(workspace)s
               AND last.stream_id = (m.data->>'other')::uuid
             ORDER BY last.stream_version DESC LIMIT 1) = o.id::text
)"""
"""SQL, for WITH RECURSIVE: an entity, and all that are merged into it now, at any depth."""


async def merged_into(
    connection: AsyncConnection, workspace_id: UUID, kind: str, entity_id: UUID
) -> tuple[UUID, UUID] | None:
    """The entity into which this one was merged, and the survivor of the merges since (up to 100).

    None if the entity is not merged.
    """
    parameters = {"workspace": workspace_id, "kind": kind, "id": entity_id}
    row = await (await connection.execute(SELECT_SURVIVOR, parameters)).fetchone()
    return (row[0], row[1]) if row and row[0] else None
