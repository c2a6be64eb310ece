"""One entity with everything that its page shows."""

from __future__ import annotations

from functools import cache
from uuid import UUID

from eventlog.connections import ENTERED, AsyncConnection
from eventlog.libpq.rows import Statement
from readmodels.lists import LISTS
from readmodels.spec import item_sql

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
    row = await detail_statement(plural).fetch_row(connection, parameters)
    if row is None:
        return None
    version, item = row
    assert version is not None
    assert item is not None
    return int(version), item


@cache
def detail_statement(plural: str) -> Statement:
    """The statement of all entities of one kind."""
    spec = LISTS[plural]
    more = {"opportunities": OPPORTUNITIES} if plural == "accounts" else {}
    item = item_sql(spec.items, with_contacts=spec.with_contacts, more=more)
    return Statement(DETAIL.format(item=item, table=spec.table, base=spec.base))
