"""The audit trail: who changed what, when and from where, with the values before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from eventlog.connections import Connection
from eventlog.reading.audit import EVENT_OF_ENTRY, KEY_OF_ENTRY, entry_columns, json_object
from readmodels.pool import AsyncConnection

AUDIT_PAGE_DEFAULT = 50
AUDIT_PAGE_MAX = 500
JOB = "job"

ITEM: Mapping[str, str] = MappingProxyType(
    entry_columns(
        (
            *("position", "entityType", "entityId", "action", "topic", "version", "accountId"),
            *("actor", "keyId", "occurredAt", "recordedAt", "ip", "userAgent", "requestId"),
            *("command", "commandId", "undoes", "undoesPosition", "correlationId", "causationId"),
            *("changes", "details"),
        ),
        entityType="a.entity_type",
        entityId="a.entity_id",
        action="a.action",
    )
)
"""The columns of an entry by wire name: SQL over the rows `a` (read table) and `e` (log)."""
ITEM_SQL = json_object(ITEM)

FILTERED = f"""
     WHERE a.workspace_id = %(workspace)s
       AND (%(entity_type)s::text IS NULL OR a.entity_type = %(entity_type)s)
       AND (%(entity_id)s::uuid IS NULL OR a.entity_id = %(entity_id)s)
       AND (%(action)s::text IS NULL OR a.action = %(action)s)
       AND (%(actor_id)s::text IS NULL OR a.actor_id = %(actor_id)s)
       AND (%(key_id)s::text IS NULL OR %(key_id)s = {KEY_OF_ENTRY})
       AND (%(since)s::timestamptz IS NULL OR a.recorded_at >= %(since)s)
       AND (%(until)s::timestamptz IS NULL OR a.recorded_at < %(until)s)
       AND (%(cursor)s::bigint IS NULL OR a.position < %(cursor)s)"""

PAGE = f"""
WITH page AS MATERIALIZED (
    SELECT a.* FROM read.audit AS a {FILTERED}
     ORDER BY a.position DESC LIMIT %(limit)s + 1
), numbered AS (
    SELECT a.*, row_number() OVER () AS ordinal FROM page AS a
)
SELECT coalesce(json_agg({ITEM_SQL} ORDER BY a.ordinal)
           FILTER (WHERE a.ordinal <= %(limit)s), '[]')::text,
       CASE WHEN count(*) > %(limit)s THEN
           min(a.position) FILTER (WHERE a.ordinal <= %(limit)s) END
  FROM numbered AS a {EVENT_OF_ENTRY}
"""

POSITIONS_OF_COMMAND = """
SELECT array(SELECT position FROM read.audit
              WHERE workspace_id = %(workspace)s AND command_id = %(command)s
                AND entity_type <> 'job'
              ORDER BY position LIMIT %(limit)s),
       EXISTS (SELECT FROM projection_parked
                WHERE projection = 'audit' AND workspace_id = %(workspace)s)
"""

SUMMARY_OF_COMMAND = """
SELECT entity_type, action, count(*), max(position),
       (array_agg(entity_id) FILTER (WHERE entity_type = 'job'))[1] FROM read.audit
 WHERE workspace_id = %(workspace)s AND command_id = %(command)s
 GROUP BY entity_type, action ORDER BY entity_type, action
"""
LAST_POSITIONS_BELOW = """
SELECT position FROM read.audit
 WHERE workspace_id = %(workspace)s AND command_id = %(command)s AND entity_type <> 'job'
   AND position < %(below)s
 ORDER BY position DESC LIMIT %(limit)s
"""


@dataclass(frozen=True)
class AuditQuery:
    """A page of the audit trail, newest first. `since` and `until` are times of recording."""

    workspace_id: UUID
    entity_type: str | None = None
    entity_id: UUID | None = None
    action: str | None = None
    actor_id: str | None = None
    key_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    cursor: int | None = None
    limit: int = AUDIT_PAGE_DEFAULT

    def parameters(self) -> dict[str, Any]:
        """The parameters of FILTERED and PAGE."""
        return {
            "workspace": self.workspace_id,
            "entity_type": self.entity_type,
            "entity_id": self.entity_id,
            "action": self.action,
            "actor_id": self.actor_id,
            "key_id": self.key_id and str(self.key_id),
            "since": self.since,
            "until": self.until,
            "cursor": self.cursor,
            "limit": self.limit,
        }


async def audit_page(connection: AsyncConnection, query: AuditQuery) -> bytes:
    """`{items, nextCursor}` as JSON; the next page is below the position in the cursor."""
    row = await (await connection.execute(PAGE, query.parameters())).fetchone()
    assert row is not None
    cursor = "null" if row[1] is None else str(row[1])
    return f'{{"items":{row[0]},"nextCursor":{cursor}}}'.encode()


async def positions_of_command(
    connection: AsyncConnection, workspace_id: UUID, command_id: str, limit: int
) -> list[int] | None:
    """Positions of a command's first `limit` events of entities, in order.

    Events of the job that ran the command are left out, because its progress cannot be undone.
    Returns None if entities of this workspace are parked, so that the trail may lack events. Wait
    for the checkpoint of the trail first.
    """
    parameters = {"workspace": workspace_id, "command": command_id, "limit": limit}
    row = await (await connection.execute(POSITIONS_OF_COMMAND, parameters)).fetchone()
    assert row is not None
    positions, is_incomplete = row
    return None if is_incomplete else list(positions)


@dataclass(frozen=True)
class Operation:
    """A summary of what a command did."""

    did: list[tuple[str, str, int]]
    """Kind of entity, action, and number of events."""
    last_position: int
    job_id: UUID | None
    """The job that ran the command."""

    @property
    def events(self) -> int:
        """Number of events of entities."""
        return sum(count for _, _, count in self.did)


async def operation_of(
    connection: AsyncConnection, workspace_id: UUID, command_id: str
) -> Operation:
    """Summarise a command by its events."""
    parameters = {"workspace": workspace_id, "command": command_id}
    rows = await (await connection.execute(SUMMARY_OF_COMMAND, parameters)).fetchall()
    did = [(kind, action, count) for kind, action, count, _, _ in rows if kind != JOB]
    last = max((position for kind, _, _, position, _ in rows if kind != JOB), default=0)
    job_id = next((entity_id for kind, _, _, _, entity_id in rows if kind == JOB), None)
    return Operation(did, last, job_id)


def last_positions_below(
    connection: Connection, workspace_id: UUID, command_id: str, below: int, limit: int
) -> list[int]:
    """Positions of a command's last `limit` events of entities below a position, highest first."""
    parameters = {
        "workspace": workspace_id,
        "command": command_id,
        "below": below,
        "limit": limit,
    }
    return [row[0] for row in connection.execute(LAST_POSITIONS_BELOW, parameters)]
