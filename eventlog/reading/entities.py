"""Events of chosen entities."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from eventlog.connections import Connection
from eventlog.reading.recorded import COLUMNS, RecordedEvent, to_event

ABSORBED = """
absorbed(id) AS (
    SELECT unnest(%(accounts)s::uuid[])
    UNION
    SELECT (m.data->>'other')::uuid FROM absorbed AS o JOIN events AS m ON m.stream_id = o.id
     WHERE m.workspace_id = %(workspace)s AND m.topic = 'account.merged'
)
"""
"""SQL, for WITH RECURSIVE: the accounts, and all that were ever merged into one of them.

Every entity that belongs to the accounts was created on one of these.
"""
SELECT_ENTITY = f"""
WITH RECURSIVE {ABSORBED}
SELECT {COLUMNS}
  FROM events
 WHERE workspace_id = %(workspace)s AND position <= %(upto)s
   AND (stream_id = %(entity)s
        OR (%(with_children)s AND account_id = %(entity)s AND stream_id IN (
            SELECT c.stream_id FROM absorbed AS o JOIN events AS c
                ON c.account_id = o.id AND c.stream_version = 1)))
 ORDER BY position
"""
SELECT_EXISTING = """
SELECT stream_id FROM events
 WHERE workspace_id = %s AND stream_id = ANY(%s::uuid[]) AND stream_version = 1
"""


def read_entity(
    connection: Connection,
    workspace_id: UUID | str,
    entity_id: UUID | str,
    *,
    upto: int,
    with_children: bool,
) -> list[RecordedEvent]:
    """Read the events of an entity up to a position, on a connection for followers.

    with_children: for an account, also the events of its children while they belonged to it.
    """
    parameters = {
        "workspace": workspace_id,
        "entity": entity_id,
        "accounts": [entity_id],
        "upto": upto,
        "with_children": with_children,
    }
    return [to_event(row) for row in connection.execute(SELECT_ENTITY, parameters)]


def existing_ids(connection: Connection, workspace_id: UUID, ids: Collection[UUID]) -> set[UUID]:
    """The ids among these that the workspace has an entity for, deleted or not."""
    rows = connection.execute(SELECT_EXISTING, (workspace_id, list(ids)))
    return {row[0] for row in rows}
