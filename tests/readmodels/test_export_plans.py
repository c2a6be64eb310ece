"""Plans of exports: names are joined once each, and custom fields are known from an index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from uuid import UUID

import psycopg
import pytest

from benchmarks.export import ACCOUNTS, CONTACTS, MEMBERS
from readmodels import exports
from readmodels.exports import KEY_SETS, Format, blocks, list_export
from readmodels.lists import LISTS, ListQuery
from readmodels.pool import AsyncConnection
from server.postgres.embedded import Cluster
from tests.support.databases import Urls, fresh_database
from tests.support.list_pages import Pages

WORKSPACE = UUID(int=1)
OTHER_WORKSPACE = UUID(int=2)
ROWS = 4_000
ACCOUNTS_LIST = LISTS["accounts"]
QUERY = ListQuery(WORKSPACE)
SET_KEYS = """
UPDATE read.accounts SET custom_fields = jsonb_build_object('k' || right(id::text, 1), 1)
 WHERE workspace_id = %s
"""


@pytest.fixture(scope="module")
def filled(cluster: Cluster, template: str) -> Iterator[Urls]:
    """Fill two workspaces; in the second one, custom fields have sixteen different keys."""
    with fresh_database(cluster, template) as made:
        with psycopg.connect(made.projector, autocommit=True) as connection:
            for workspace_id in (WORKSPACE, OTHER_WORKSPACE):
                connection.execute(MEMBERS, (workspace_id,))
                connection.execute(ACCOUNTS, (workspace_id, ROWS))
                connection.execute(CONTACTS, (workspace_id, ROWS))
            connection.execute(SET_KEYS, (OTHER_WORKSPACE,))
            connection.execute("VACUUM ANALYZE read.accounts, read.members, read.contacts")
        yield made


def explained(filled: Urls, statement: str, parameters: dict[str, object]) -> str:
    """Execute the statement and return its plan."""

    async def explain(connection: AsyncConnection) -> str:
        cursor = await connection.execute(f"EXPLAIN (ANALYZE, COSTS OFF) {statement}", parameters)
        return "\n".join(row[0] for row in await cursor.fetchall())

    return Pages(filled.app, WORKSPACE).reading(explain)


def header(filled: Urls, query: ListQuery) -> str:
    """Return the first line of an export as CSV."""

    async def export(connection: AsyncConnection) -> str:
        made = await list_export(connection, ACCOUNTS_LIST, query, Format.CSV)
        async with aclosing(blocks(connection, made)) as stream:
            content = b"".join([block async for block in stream])
        assert content.count(b"\n") == 1 + ROWS
        return content.decode().partition("\n")[0]

    return Pages(filled.app, query.workspace_id).reading(export)


def plan_of_export(filled: Urls, query: ListQuery, form: Format) -> str:
    """Execute the statement of an export and return its plan."""

    async def statement(connection: AsyncConnection) -> tuple[str, dict[str, object]]:
        export = await list_export(connection, ACCOUNTS_LIST, query, form)
        return export.statement, dict(export.parameters)

    copy, parameters = Pages(filled.app, WORKSPACE).reading(statement)
    return explained(filled, copy.removeprefix("COPY (").partition(") TO STDOUT")[0], parameters)


@pytest.mark.parametrize("sort_by", sorted(ACCOUNTS_LIST.sorts))
@pytest.mark.parametrize("form", Format)
def test_no_row_waits_for_all_others(form: Format, sort_by: str, filled: Urls) -> None:
    plan = plan_of_export(filled, replace(QUERY, sort_by=sort_by), form)
    assert "Sort" not in plan, plan
    assert "Hash" not in plan, plan
    column = {"company": "company_key", "status": "status_created_at"}.get(sort_by, sort_by)
    assert f"Index Scan Backward using accounts_workspace_id_{column}_id_idx" in plan, plan


def test_contacts_are_read_in_order_from_an_index(filled: Urls) -> None:
    plan = plan_of_export(filled, QUERY, Format.NDJSON)
    index = "contacts_workspace_id_account_id_created_at_id_idx"
    assert f"Index Scan using {index} on contacts" in plan, plan
    assert f"Index Searches: {ROWS}" in plan, plan


@pytest.mark.parametrize("form", Format)
def test_names_are_looked_up_once_each(form: Format, filled: Urls) -> None:
    plan = plan_of_export(filled, QUERY, form)
    assert f"Hits: {ROWS - 20}  Misses: 20" in plan, plan
    assert "Index Scan Backward using accounts_workspace_id_created_at_id_idx" in plan, plan


def test_custom_fields_are_found_without_reading_all_rows(filled: Urls) -> None:
    plan = explained(
        filled,
        KEY_SETS.format(table="read.accounts"),
        {"workspace": WORKSPACE, "sets_max": 10, "keys_max": 10},
    )
    assert plan.count("using accounts_workspace_id_custom_fields_key_idx on accounts") == 2, plan
    assert f"rows={ROWS}" not in plan, plan


@pytest.mark.parametrize("workspace_id", [WORKSPACE, OTHER_WORKSPACE])
def test_columns_are_equal_if_all_rows_are_read(
    workspace_id: UUID, filled: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_index = header(filled, ListQuery(workspace_id))
    filtered = header(filled, ListQuery(workspace_id, filters={"type": "customer"}))
    monkeypatch.setattr(exports, "KEY_SETS_MAX", 0)
    by_rows = header(filled, ListQuery(workspace_id))
    assert by_index == filtered == by_rows
    assert by_index.count("customFields.") == {WORKSPACE: 4, OTHER_WORKSPACE: 16}[workspace_id]
