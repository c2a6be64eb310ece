"""One entity with everything that its page shows."""

from __future__ import annotations

from uuid import UUID

from readmodels.lists import LISTS, item_sql
from readmodels.pool import AsyncConnection
from readmodels.spec import ListSpec

OPPORTUNITIES_PER_ACCOUNT_MAX = 100

DETAIL = """
SELECT t.version, {item}::text FROM {table} AS t
 WHERE t.workspace_id = %s AND t.id = %s AND {base}
"""

OPPORTUNITIES = f"""(
    SELECT coalesce(json_agg(json_build_object(
               'id', o.id, 'name', o.name, 'stage', o.stage, 'value', o.value::text,
               'version', o.version) ORDER BY o.created_at DESC, o.id DESC), '[]')
      FROM (SELECT * FROM read.opportunities o
             WHERE o.workspace_id = t.workspace_id AND o.account_id = t.id
             ORDER BY o.created_at DESC, o.id DESC
             LIMIT {OPPORTUNITIES_PER_ACCOUNT_MAX}) AS o)"""


async def detail(
    connection: AsyncConnection, plural: str, workspace_id: UUID, entity_id: UUID
) -> tuple[int, bytes] | None:
    """Version and JSON of one entity; None if it does not exist."""
    cursor = await connection.execute(_sql(LISTS[plural]), (workspace_id, entity_id))
    row = await cursor.fetchone()
    return (row[0], row[1].encode()) if row else None


def _sql(spec: ListSpec) -> str:
    item = item_sql(spec, with_contacts=spec.with_contacts)
    if spec.plural == "accounts":
        item = item.removesuffix(")") + f", 'opportunities', {OPPORTUNITIES})"
    return DETAIL.format(item=item, table=spec.table, base=spec.base)
