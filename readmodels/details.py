"""One entity with everything that its page shows."""

from __future__ import annotations

from uuid import UUID

from eventlog.connections import ENTERED, AsyncConnection
from readmodels.lists import LISTS, item_sql
from readmodels.spec import ListSpec

OPPORTUNITIES_PER_ACCOUNT_MAX = 100

DETAIL = f"""{ENTERED}
SELECT found.version, found.item FROM entered, LATERAL (
    SELECT t.version, {{item}}::text AS item FROM {{table}} AS t
     WHERE t.workspace_id = entered.workspace AND t.id = %(id)s AND {{base}}
     LIMIT 1) AS found
"""

OPPORTUNITIES = f"""(
    SELECT coalesce(json_agg(row_to_json(o)), '[]') FROM (
        SELECT o.id, o.name, o.stage, o.value::text, o.version FROM read.opportunities o
         WHERE o.workspace_id = t.workspace_id AND o.account_id = t.id
         ORDER BY o.created_at DESC, o.id DESC
         LIMIT {OPPORTUNITIES_PER_ACCOUNT_MAX}) AS o)"""


async def detail(
    connection: AsyncConnection, plural: str, workspace_id: UUID, entity_id: UUID
) -> tuple[int, bytes] | None:
    """Version and JSON of one entity, by one statement, which enters the workspace.

    None if it does not exist.
    """
    parameters = {"workspace": workspace_id, "id": entity_id}
    cursor = await connection.execute(_sql(LISTS[plural]), parameters)
    row = await cursor.fetchone()
    return (row[0], row[1].encode()) if row else None


def _sql(spec: ListSpec) -> str:
    more = {"opportunities": OPPORTUNITIES} if spec.plural == "accounts" else {}
    item = item_sql(spec, with_contacts=spec.with_contacts, more=more)
    return DETAIL.format(item=item, table=spec.table, base=spec.base)
