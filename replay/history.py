"""The history of one entity: its events, who caused them, before and after."""

from __future__ import annotations

from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from eventlog.changes_sql import CHANGES, DETAILS
from projections.audit import ACTIONS, OF_DATA, UNDO

HISTORY_PAGE_DEFAULT = 100
HISTORY_PAGE_MAX = 1_000
ACTIONS_JSON = orjson.dumps(ACTIONS).decode()
OF_DATA_SQL = " ".join(
    f"WHEN e.data->>'{name}' IS NOT NULL THEN '{what}'" for name, what in OF_DATA.items()
)

ACTION_SQL = f"""
CASE WHEN e.metadata->>'undoesPosition' IS NOT NULL THEN '{UNDO}' {OF_DATA_SQL}
     ELSE %(actions)s::jsonb->>e.topic END"""
"""What the audit trail calls an event; `actions` is ACTIONS_JSON."""
ENTRY = f"""
'position', e.position, 'version', e.stream_version, 'topic', e.topic, 'action', {ACTION_SQL},
'undoes', e.metadata->>'undoes',
'undoesPosition', (e.metadata->>'undoesPosition')::bigint,
'actor', e.metadata->'actor',
'occurredAt', e.occurred_at, 'recordedAt', e.recorded_at,
'requestId', e.metadata->>'requestId', 'command', e.metadata->>'command',
'commandId', e.metadata->>'commandId', 'causationId', e.metadata->>'causationId',
'changes', {CHANGES}, 'details', {DETAILS}"""
ADDRESSES = "'ip', e.metadata->>'ip', 'userAgent', e.metadata->>'userAgent'"
"""From where it was done: for who may read the trail."""

HISTORY = """
WITH page AS (
    SELECT e.* FROM events AS e
     WHERE e.workspace_id = %(workspace)s AND e.stream_id = %(stream)s
       AND e.stream_version > %(after)s AND e.topic LIKE %(topics)s
     ORDER BY e.stream_version LIMIT %(limit)s + 1
), numbered AS (
    SELECT e.*, row_number() OVER (ORDER BY e.stream_version) AS ordinal FROM page AS e
)
SELECT coalesce(json_agg(json_build_object({entry}) ORDER BY e.ordinal)
           FILTER (WHERE e.ordinal <= %(limit)s), '[]')::text,
       CASE WHEN count(*) > %(limit)s THEN
           max(e.stream_version) FILTER (WHERE e.ordinal <= %(limit)s) END,
       count(*)
  FROM numbered AS e
"""

# Of all that are one by now: this one, what was merged into it, and into those. By position.
HISTORY_OF_ALL = """
WITH RECURSIVE one(id) AS (
    SELECT %(stream)s::uuid
    UNION
    SELECT (m.data->>'other')::uuid FROM one AS o JOIN events AS m ON m.stream_id = o.id
     WHERE m.workspace_id = %(workspace)s AND m.topic = %(kind)s || '.merged'
       AND (SELECT last.data->>'mergedInto' FROM events AS last
             WHERE last.workspace_id = %(workspace)s
               AND last.stream_id = (m.data->>'other')::uuid
             ORDER BY last.stream_version DESC LIMIT 1) = o.id::text
), page AS (
    SELECT e.* FROM events AS e
     WHERE e.workspace_id = %(workspace)s AND e.stream_id IN (SELECT id FROM one)
       AND e.position > %(after)s AND e.topic LIKE %(topics)s
     ORDER BY e.position LIMIT %(limit)s + 1
), numbered AS (
    SELECT e.*, row_number() OVER (ORDER BY e.position) AS ordinal FROM page AS e
)
SELECT coalesce(json_agg(json_build_object('entityId', e.stream_id, {entry}) ORDER BY e.ordinal)
           FILTER (WHERE e.ordinal <= %(limit)s), '[]')::text,
       CASE WHEN count(*) > %(limit)s THEN
           max(e.position) FILTER (WHERE e.ordinal <= %(limit)s) END,
       count(*)
  FROM numbered AS e
"""


async def entity_history(
    connection: AsyncConnection[TupleRow],
    workspace_id: UUID,
    kind: str,
    entity_id: UUID,
    *,
    after: int,
    limit: int,
    with_merged: bool = False,
    with_addresses: bool = False,
) -> bytes | None:
    """`{items, nextCursor}` as JSON, oldest first; None where there is no such entity.

    The cursor (`after`) is the version after which to go on; of a history `with_merged`, that of
    what was merged into it among its own, the position. `with_addresses` shows from where it was
    done, too.
    """
    parameters = {
        "workspace": workspace_id,
        "stream": entity_id,
        "kind": kind,
        "topics": f"{kind}.%",
        "after": after,
        "limit": limit,
        "actions": ACTIONS_JSON,
    }
    statement = HISTORY_OF_ALL if with_merged else HISTORY
    entry = f"{ENTRY}, {ADDRESSES}" if with_addresses else ENTRY
    found = await connection.execute(statement.format(entry=entry).encode(), parameters)
    row = await found.fetchone()
    assert row is not None
    if row[2] == 0 and after == 0:
        return None
    cursor = "null" if row[1] is None else str(row[1])
    return f'{{"items":{row[0]},"nextCursor":{cursor}}}'.encode()
