"""The audit trail: who changed what, when and from where, with the values before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from eventlog.connections import Connection
from eventlog.reading.actions import ACTIONS_JSON
from eventlog.reading.audit import (
    POSITIONS_OF_COMMAND,
    SUMMARY_OF_COMMAND,
    entry_columns,
    json_object,
    select_page,
)
from eventlog.reading.positions import POSITION_MAX
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
        )
    )
)
"""The columns of an entry by wire name: SQL over a row `e` of the log."""
ITEM_SQL = json_object(ITEM)


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
        """The filters that are given, and the workspace, as parameters of statements."""
        filters = {
            "entity_type": self.entity_type,
            "entity_id": self.entity_id,
            "action": self.action,
            "actor_id": self.actor_id,
            "key_id": self.key_id and str(self.key_id),
            "since": self.since,
            "until": self.until,
            "cursor": self.cursor,
        }
        given = {name: value for name, value in filters.items() if value is not None}
        return {"workspace": self.workspace_id, "actions": ACTIONS_JSON, **given}


async def audit_page(connection: AsyncConnection, query: AuditQuery, upto: int) -> bytes:
    """`{items, nextCursor}` as JSON; the next page is below the position in the cursor.

    upto: a position that was readable before the statement; entries above it are left out, so that
    none can still appear between those of a page.
    """
    parameters = {**query.parameters(), "upto": upto, "limit": query.limit}
    statement = select_page(ITEM_SQL, parameters.keys())
    row = await (await connection.execute(statement.encode(), parameters)).fetchone()
    assert row is not None
    cursor = "null" if row[1] is None else str(row[1])
    return f'{{"items":{row[0]},"nextCursor":{cursor}}}'.encode()


async def positions_of_command(
    connection: AsyncConnection, workspace_id: UUID, command_id: str, limit: int
) -> list[int]:
    """Positions of a command's first `limit` events of entities, in order.

    Events of the job that ran the command are left out, because its progress cannot be undone.
    """
    parameters = {
        "workspace": workspace_id,
        "command": command_id,
        "below": POSITION_MAX,
        "limit": limit,
    }
    cursor = await connection.execute(POSITIONS_OF_COMMAND.format(order="ASC").encode(), parameters)
    return [row[0] for row in await cursor.fetchall()]


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
    parameters = {"workspace": workspace_id, "command": command_id, "actions": ACTIONS_JSON}
    rows = await (await connection.execute(SUMMARY_OF_COMMAND.encode(), parameters)).fetchall()
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
    statement = POSITIONS_OF_COMMAND.format(order="DESC").encode()
    return [row[0] for row in connection.execute(statement, parameters)]
