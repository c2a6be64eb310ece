"""The history of an entity: its events, their actors, and each change."""

from __future__ import annotations

from functools import cache
from uuid import UUID

from domain.member import Member
from eventlog.connections import AsyncConnection
from eventlog.reading.actions import ACTIONS_JSON
from eventlog.reading.audit import entry_columns, json_object
from eventlog.reading.history import ENTITY_PAGE, MEMBER_PAGE, MERGED_ENTITY_PAGE

HISTORY_PAGE_DEFAULT = 100
HISTORY_PAGE_MAX = 1_000
COLUMNS = (
    *("position", "version", "topic", "action", "undoes", "undoesPosition", "actor", "keyId"),
    *("occurredAt", "recordedAt", "requestId", "command", "commandId", "causationId", "changes"),
    "details",
)
ADDRESS_COLUMNS = ("ip", "userAgent")
"""Further columns for callers who may read the audit trail."""

HISTORY = """
{page}, numbered AS (
    SELECT e.*, row_number() OVER (ORDER BY e.{order}) AS ordinal FROM page AS e
)
SELECT coalesce(json_agg({entry} ORDER BY e.ordinal)
           FILTER (WHERE e.ordinal <= %(limit)s), '[]')::text,
       CASE WHEN count(*) > %(limit)s THEN
           max(e.{order}) FILTER (WHERE e.ordinal <= %(limit)s) END,
       count(*)
  FROM numbered AS e
"""


async def entity_history(
    connection: AsyncConnection,
    workspace_id: UUID,
    kind: str,
    entity_id: UUID,
    *,
    after: int,
    limit: int,
    with_merged: bool = False,
    with_addresses: bool = False,
) -> bytes | None:
    """Read `{items, nextCursor}` as JSON, oldest first; None if there is no such entity.

    The history of a member includes the keys that were issued for that member.

    after: the cursor, a version; a position for a member and with_merged. with_merged: include the
    histories of the entities merged into this one. with_addresses: include IP addresses and user
    agents.
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
    statement = _statement(kind == Member.KIND, with_merged, with_addresses)
    found = await connection.execute(statement, parameters)
    row = await found.fetchone()
    assert row is not None
    if row[2] == 0 and after == 0:
        return None
    cursor = "null" if row[1] is None else str(row[1])
    return f'{{"items":{row[0]},"nextCursor":{cursor}}}'.encode()


@cache
def _statement(of_member: bool, with_merged: bool, with_addresses: bool) -> bytes:
    names = [*COLUMNS, *ADDRESS_COLUMNS] if with_addresses else [*COLUMNS]
    page, order = ENTITY_PAGE, "stream_version"
    if of_member or with_merged:
        names.insert(0, "entityId")
        page, order = MEMBER_PAGE if of_member else MERGED_ENTITY_PAGE, "position"
    entry = json_object(entry_columns(names))
    return HISTORY.format(page=page, order=order, entry=entry).encode()
