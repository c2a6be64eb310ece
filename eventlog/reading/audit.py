"""An audit entry: one event with its actor, its times and its changes.

The audit trail, the history of an entity and the facts of realtime subscribers show columns of the
same entry. Each column is SQL over a row `e` of the log. Percent signs are doubled, because the SQL
is part of statements with parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from uuid import UUID

from eventlog.connections import AsyncConnection
from eventlog.scope import AS_ONE

CHANGES = """
CASE
    WHEN e.data->'changes' IS NOT NULL THEN (
        SELECT coalesce(json_agg(json_build_object(
                   'field', c.key, 'before', c.value->'before', 'after', c.value->'after')), '[]')
          FROM json_each(e.data->'changes') AS c
         WHERE c.key <> 'secretSha256')
    WHEN e.data->'after' IS NOT NULL THEN json_build_array(json_build_object(
        'field', CASE WHEN e.topic LIKE '%%.stage_changed' THEN 'stage' ELSE 'status' END,
        'before', e.data->'before', 'after', e.data->'after'))
    ELSE (
        SELECT coalesce(json_agg(json_build_object(
                   'field', f.key,
                   'before', CASE WHEN gone THEN f.value END,
                   'after', CASE WHEN NOT gone THEN f.value END)), '[]')
          FROM json_each(e.data->'fields') AS f,
               (SELECT e.topic LIKE '%%.deleted' OR e.topic LIKE '%%.revoked' AS gone) AS g
         WHERE f.key <> 'secretSha256')
END"""
"""A JSON array of `{field, before, after}`, without the digest of an API key's secret."""

DETAILS = """
json_strip_nulls(json_build_object(
    'mergedInto', e.data->>'mergedInto', 'merged', e.data->>'other', 'moved', e.data->'moved',
    'movedFrom', e.data->>'movedFrom', 'movedTo', e.data->>'movedTo',
    'deletedWith', e.data->>'deletedWith'))"""
"""A JSON object about merges and moves, and the account with which an entity was deleted."""

ENTRY: Mapping[str, str] = MappingProxyType(
    {
        "position": "e.position",
        "topic": "e.topic",
        "type": "e.topic",
        "kind": "split_part(e.topic, '.', 1)",
        "entityId": "e.stream_id",
        "accountId": "e.account_id",
        "version": "e.stream_version",
        "actor": "e.metadata->'actor'",
        "keyId": "e.metadata->>'keyId'",
        "occurredAt": "e.occurred_at",
        "recordedAt": "e.recorded_at",
        "ip": "e.metadata->>'ip'",
        "userAgent": "e.metadata->>'userAgent'",
        "requestId": "e.metadata->>'requestId'",
        "command": "e.metadata->>'command'",
        "commandId": "e.metadata->>'commandId'",
        "undoes": "e.metadata->>'undoes'",
        "undoesPosition": "(e.metadata->>'undoesPosition')::bigint",
        "correlationId": "e.metadata->>'correlationId'",
        "causationId": "e.metadata->>'causationId'",
        "changes": CHANGES,
        "details": DETAILS,
    }
)
"""The columns of an entry by wire name, except for `action`, which the audit projection defines."""

EVENT_OF_ENTRY = "JOIN events AS e ON e.position = a.position AND e.workspace_id = a.workspace_id"
"""Joins the event `e` to a row `a` of the audit trail's read table."""

KEY_OF_ENTRY = """(
    SELECT e.metadata->>'keyId' FROM events AS e
     WHERE e.position = a.position AND e.workspace_id = a.workspace_id)"""
"""The API key of a row `a` of the audit trail's read table, or null."""

SELECT_WHOLE_COMMAND = """
SELECT metadata->>'commandId' FROM events
 WHERE workspace_id = %s AND position = %s AND metadata->>%s IS NOT NULL
"""


def entry_columns(names: Iterable[str], **computed: str) -> dict[str, str]:
    """Choose columns of an entry, in this order; `computed` adds columns or replaces their SQL."""
    known = {**ENTRY, **computed}
    return {name: known[name] for name in names}


def json_object(columns: Mapping[str, str]) -> str:
    """SQL for a JSON object with these columns, in their order."""
    pairs = ", ".join(f"'{name}', {sql}" for name, sql in columns.items())
    return f"json_build_object({pairs})"


async def whole_command(
    connection: AsyncConnection, workspace_id: UUID, position: int
) -> str | None:
    """The id of the event's command if the command can only be undone as a whole.

    None otherwise, and if there is no event at the position.
    """
    parameters = (workspace_id, position, AS_ONE)
    row = await (await connection.execute(SELECT_WHOLE_COMMAND, parameters)).fetchone()
    return row[0] if row else None
