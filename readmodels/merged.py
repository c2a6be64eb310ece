"""Into what a thing was merged that is not there any more."""

from __future__ import annotations

from uuid import UUID

from readmodels.pool import AsyncConnection

# The last event of each says whether it was merged, and so leads to the next one.
SURVIVOR = """
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


async def merged_into(
    connection: AsyncConnection, workspace_id: UUID, kind: str, entity_id: UUID
) -> tuple[UUID, UUID] | None:
    """Into which one it was merged, and which one that is by now; None where it was not."""
    parameters = {"workspace": workspace_id, "kind": kind, "id": entity_id}
    row = await (await connection.execute(SURVIVOR, parameters)).fetchone()
    return (row[0], row[1]) if row and row[0] else None
