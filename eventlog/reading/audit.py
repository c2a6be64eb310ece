"""An audit entry: one event with its actor, its times and its changes.

The audit trail, the history of an entity and the facts of realtime subscribers show columns of the
same entry. Each column is SQL over a row `e` of the log. Percent signs are doubled, because the SQL
is part of statements with parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from uuid import UUID

from eventlog.connections import AsyncConnection
from eventlog.reading.actions import ACTION, ACTION_OF, KIND, KIND_OF
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
        "kind": KIND,
        "action": ACTION,
        "entityType": KIND,
        "entityId": "e.stream_id",
        "accountId": "e.account_id",
        "version": "e.stream_version",
        "actor": "e.metadata->'actor'",
        "keyId": "e.api_key_id",
        "occurredAt": "e.occurred_at",
        "recordedAt": "e.recorded_at",
        "ip": "e.metadata->>'ip'",
        "userAgent": "e.metadata->>'userAgent'",
        "requestId": "e.metadata->>'requestId'",
        "command": "e.metadata->>'command'",
        "commandId": "e.command_id",
        "undoes": "e.metadata->>'undoes'",
        "undoesPosition": "(e.metadata->>'undoesPosition')::bigint",
        "correlationId": "e.metadata->>'correlationId'",
        "causationId": "e.metadata->>'causationId'",
        "changes": CHANGES,
        "details": DETAILS,
    }
)
"""The columns of an entry by wire name. That of `action` has the parameter `actions`."""

IN_WORKSPACE = "e.workspace_id = %(workspace)s"
TOPIC_CONDITIONS = {
    "entity_type": f"{KIND_OF} = %(entity_type)s",
    "action": f"{ACTION_OF} = %(action)s",
}
"""Conditions on the action topic of a row."""
CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        **{name: sql.format(row="e") for name, sql in TOPIC_CONDITIONS.items()},
        "entity_id": "e.stream_id = %(entity_id)s::uuid",
        "actor_id": "e.actor_id = %(actor_id)s",
        "key_id": "e.api_key_id = %(key_id)s",
        "since": "e.recorded_at >= %(since)s",
        "until": "e.recorded_at < %(until)s",
        "upto": "e.position <= %(upto)s",
        "cursor": "e.position < %(cursor)s",
    }
)
"""The condition of each filter, over a row `e` of the log."""
OF_TIME = frozenset({"since", "until"})
WITH_TOPICS = TOPIC_CONDITIONS.keys() | {"actor_id"}
"""Filters that are served by an index with action topics."""

# The newest entries of each action topic are read from the index in order, and merged. The topics
# that occur are found by one look into the index for each.
NEWEST_OF_EACH = """
WITH RECURSIVE occurring AS (
    (SELECT e.action_topic FROM events AS e WHERE {indexed} ORDER BY e.action_topic LIMIT 1)
     UNION ALL
    SELECT (SELECT e.action_topic FROM events AS e
             WHERE {indexed} AND e.action_topic > o.action_topic ORDER BY e.action_topic LIMIT 1)
      FROM occurring AS o WHERE o.action_topic IS NOT NULL
), found AS MATERIALIZED (
    SELECT newest.position
      FROM occurring AS o CROSS JOIN LATERAL (
          SELECT e.position FROM events AS e
           WHERE {indexed} AND e.action_topic = o.action_topic{rest}
           ORDER BY e.position DESC LIMIT %(limit)s + 1) AS newest
     WHERE o.action_topic IS NOT NULL{of_topic}
     ORDER BY newest.position DESC LIMIT %(limit)s + 1
)"""
NEWEST_OF_ENTITY = """
WITH entries AS MATERIALIZED (
    SELECT e.position FROM events AS e WHERE {conditions}
), found AS MATERIALIZED (
    SELECT position FROM entries ORDER BY position DESC LIMIT %(limit)s + 1
)"""
NEWEST = """
WITH found AS MATERIALIZED (
    SELECT e.position FROM events AS e WHERE {conditions}
     ORDER BY e.position DESC LIMIT %(limit)s + 1
)"""

PAGE = """
{found}
SELECT coalesce(json_agg({entry} ORDER BY f.position DESC) FILTER (WHERE f.ordinal <= %(limit)s),
                '[]')::text,
       CASE WHEN count(*) > %(limit)s THEN
           min(f.position) FILTER (WHERE f.ordinal <= %(limit)s) END
  FROM (SELECT position, row_number() OVER (ORDER BY position DESC) AS ordinal FROM found) AS f
  JOIN events AS e ON e.position = f.position AND e.workspace_id = %(workspace)s
"""

POSITIONS_OF_COMMAND = f"""
SELECT e.position FROM events AS e
 WHERE {IN_WORKSPACE} AND e.command_id = %(command)s AND {KIND} <> 'job'
   AND e.position < %(below)s
 ORDER BY e.position {{order}} LIMIT %(limit)s
"""
SUMMARY_OF_COMMAND = f"""
SELECT {KIND}, {ACTION}, count(*), max(e.position), (array_agg(e.stream_id))[1]
  FROM events AS e WHERE {IN_WORKSPACE} AND e.command_id = %(command)s
 GROUP BY 1, 2 ORDER BY 1, 2
"""
"""By kind and action: the number of events, the last position, and one of the streams."""

SELECT_WHOLE_COMMAND = """
SELECT command_id FROM events
 WHERE workspace_id = %s AND position = %s AND metadata->>%s IS NOT NULL
"""


def entry_columns(names: Iterable[str]) -> dict[str, str]:
    """Choose columns of an entry, in this order."""
    return {name: ENTRY[name] for name in names}


def select_page(entry: str, filters: Collection[str]) -> str:
    """SQL for a page of the audit trail, newest first: its entries as JSON, and the next cursor.

    entry: SQL over a row `e`. filters: the names in CONDITIONS that are given. Each combination of
    kind, action and actor reads only entries of these from an index, a page of each at most.
    """
    given = set(filters) | {"upto"}
    if "entity_id" in given:
        found = NEWEST_OF_ENTITY.format(conditions=_conditions(given))
    elif "key_id" in given or (given & OF_TIME and not given & WITH_TOPICS):
        found = NEWEST.format(conditions=_conditions(given))
    else:
        found = _newest_of_each(given)
    return PAGE.format(found=found, entry=entry)


def select_entries(filters: Collection[str]) -> str:
    """SQL to be put after FROM: all entries that match these filters, as rows `e`."""
    return f"events AS e WHERE {_conditions(filters)}"


def _conditions(filters: Collection[str]) -> str:
    return " AND ".join([IN_WORKSPACE, *_given(CONDITIONS, filters)])


def _given(conditions: Mapping[str, str], filters: Collection[str]) -> list[str]:
    return [condition for name, condition in conditions.items() if name in filters]


def _newest_of_each(given: set[str]) -> str:
    indexed = _conditions(given & {"actor_id"})
    rest = _given(CONDITIONS, given - WITH_TOPICS)
    of_topic = [each.format(row="o") for each in _given(TOPIC_CONDITIONS, given)]
    return NEWEST_OF_EACH.format(
        indexed=indexed,
        rest="".join(f" AND {each}" for each in rest),
        of_topic="".join(f" AND {each}" for each in of_topic),
    )


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
