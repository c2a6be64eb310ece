"""Query plans of lists: PostgreSQL uses indexes for every order, filter and search.

The statements are those of the API. The plans are those that were executed, reported by
auto_explain, including plans within search functions.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from projections.engine.registry import PROJECTIONS
from projections.engine.rows.copying import fill_counts
from readmodels.lists import LISTS
from readmodels.pool import AsyncConnection, ReadPool
from server.postgres.embedded import Cluster, prepare_database
from tests.support.explained import explain_all
from tests.support.kinds import DESCRIBED_KINDS
from tests.support.list_pages import Pages
from tests.support.list_rows import insert_rows
from tests.support.reference_lists import FILTERS, ListRequest

DATABASE = "test_list_plans"
ROWS = 4_000
BIG = sorted({*LISTS} - {"members"})
"""Lists with many rows; a workspace has few members."""
WORKSPACES = [UUID(int=1), UUID(int=2)]

REPETITIONS = 14
CUSTOM_PLANS = 5
"""PostgreSQL plans a prepared statement for its values as often, before it compares the costs."""
PLANS_OF_PAGES = """
SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%row_to_json%'
"""

ABSENT = [
    *("z", "zq", "zqx", "zqxy", "z" * 200, "ж", "🦓", "京都"),
    *("'", '"', "\\", "% ", ":*", "&!|", "\x1f", "a\nb"),
]
"""Texts of one, two, three and more letters, punctuation and control characters."""

every_list = pytest.mark.parametrize("plural", BIG)

SOME = {
    "type": "investor",
    "priority": "high",
    "source": "fair",
    "stage": "engaging",
    "assignedTo": str(UUID(int=3)),
    "accountId": str(UUID(int=100)),
    "leadId": str(UUID(int=100)),
    "memberId": str(UUID(int=3)),
}
SOME_STATUS = {
    "accounts": "active",
    "appointments": "held",
    "leads": "new",
    "meetings": "held",
    "tasks": "todo",
}
SOME_STATUS |= {each.kind.PLURAL: each.example.get("status", "") for each in DESCRIBED_KINDS}


@pytest.fixture(scope="module")
def app_url(cluster: Cluster, template: str) -> Iterator[str]:
    """Fill two workspaces with thousands of rows, in a database that reports its plans."""
    urls = prepare_database(cluster, DATABASE, template=template)
    with psycopg.connect(cluster.url("postgres", DATABASE), autocommit=True) as connection:
        for table in (*BIG, "members"):
            insert_rows(connection, table, ROWS)
        for projection in PROJECTIONS.values():
            for each in projection.tables:
                for counts in each.counts if each.name in BIG else ():
                    fill_counts(connection, "read", each, counts)
        connection.execute("VACUUM ANALYZE")
    explain_all(cluster, DATABASE)
    yield urls.app
    with psycopg.connect(cluster.superuser_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())


def scans_of_filtered_page(plan: str) -> tuple[str, str]:
    """Return the parts of a plan that read rows in the order of the page, and that find few."""
    _, of_few = plan.split("CTE few\n")
    found, of_page = of_few.split("CTE page\n")
    in_order = of_page[of_page.index("Subquery Scan on t") : of_page.index("InitPlan")]
    return in_order, found


class Plans:
    """Reads pages and returns their query plans."""

    def __init__(self, app_url: str) -> None:
        self._pages = Pages(app_url, WORKSPACES[0])

    def of(self, request: ListRequest, *, cursor: bool = False, **paging: Any) -> str:
        """Return the plans of a page; with `cursor`, of the page after the first."""

        async def ask(connection: AsyncConnection) -> str:
            start = None
            if cursor:
                first = await self._pages.page(connection, request, page_size=50)
                start = first["pagination"]["nextCursor"]
                assert start is not None
            notices: list[str] = []
            connection.add_notice_handler(
                lambda notice: notices.append(notice.message_primary or "")
            )
            await self._pages.page(connection, request, page_size=50, cursor=start, **paging)
            await connection.execute(
                "SELECT 1"
            )  # the server reports a plan with the next statement
            return "\n".join(notices)

        return self._pages.reading(ask)


@pytest.fixture
def plans(app_url: str) -> Plans:
    return Plans(app_url)


def assert_by_index(plan: str, plural: str) -> None:
    """Assert that the table was read by an index, and no big table by a sequential scan."""
    assert f"on {plural} t" in plan, plan
    for table in BIG:
        assert f"Seq Scan on {table}" not in plan, plan


def assert_by_letters(plan: str, plural: str, *, rows: str) -> None:
    """Assert that the index of letters found as many rows as this pattern says."""
    assert_by_index(plan, plural)
    assert f"Bitmap Index Scan on {plural}_workspace_id_letter_groups_idx" in plan, plan
    assert re.search(rf"Bitmap Heap Scan on {plural} .*rows={rows}", plan), plan


@every_list
@pytest.mark.parametrize("descending", [True, False])
def test_every_order_uses_an_index(plural: str, descending: bool, plans: Plans) -> None:
    for sort_by in LISTS[plural].sorts:
        request = ListRequest(plural, sort_by=sort_by, descending=descending)
        for cursor in (False, True):
            plan = plans.of(request, cursor=cursor)
            assert_by_index(plan, plural)
            sorted_by = set(re.findall(r"Sort Key: (.*)", re.sub(r"\bt_\d+\.", "t.", plan)))
            # Only the rows of the page and the contacts of each item are sorted.
            assert sorted_by <= {"t.ordinal", "c.created_at, c.id"}, plan


@every_list
def test_rows_before_a_later_page_are_not_read(plural: str, plans: Plans) -> None:
    for sort_by in LISTS[plural].sorts:
        plan = plans.of(ListRequest(plural, sort_by=sort_by), page=20)
        assert re.search(rf"Index Only Scan.* on {plural} t_\d+ .*rows=1001", plan), plan
        assert_by_index(plan, plural)


@every_list
def test_every_filter_uses_an_index(plural: str, plans: Plans) -> None:
    for name in FILTERS[plural].split():
        value = SOME_STATUS[plural] if name == "status" else SOME[name]
        assert_by_index(plans.of(ListRequest(plural, filters={name: value})), plural)


@every_list
def test_search_for_rare_text_uses_index(plural: str, plans: Plans) -> None:
    for search in ("c4ca4", "4ca4238a0b9", "c4ca4238a0b923820dcc509a6f75849b 6bb61e3b7b"):
        plan = plans.of(ListRequest(plural, search=search))
        assert_by_letters(plan, plural, rows="[1-9]")


@every_list
def test_search_for_absent_text_uses_index(plural: str, plans: Plans) -> None:
    for search in ABSENT:
        plan = plans.of(ListRequest(plural, search=search))
        assert_by_letters(plan, plural, rows="0")


@every_list
def test_list_without_search_does_not_count_rows(plural: str, plans: Plans) -> None:
    plan = plans.of(ListRequest(plural))
    assert "Aggregate" in plan
    assert plan.count(f"on {plural} t") == 1, plan


def test_total_of_whole_list_is_one_row(plans: Plans) -> None:
    plan = plans.of(ListRequest("accounts"))
    assert re.search(r"on account_totals t .*actual.* rows=1\b", plan), plan
    assert "account_counts" not in plan, plan


def test_shared_names_are_looked_up_once_for_a_page(plans: Plans) -> None:
    members = 20
    plan = plans.of(ListRequest("accounts"))
    found = re.search(r"Hits: (\d+)  Misses: (\d+)", plan)
    assert found, plan
    hits, misses = map(int, found.groups())
    assert hits + misses == 50
    assert misses <= members


@every_list
def test_page_with_total_and_aggregations_is_one_statement(plural: str, plans: Plans) -> None:
    plan = plans.of(ListRequest(plural), include_stats=True)
    assert len(re.findall("Query Text: (?!SELECT set_config|SELECT 1)", plan)) == 1, plan


@every_list
@pytest.mark.parametrize("paging", [{}, {"include_stats": True}, {"include_contacts": False}])
def test_repeated_page_is_not_planned_again(
    plural: str, paging: dict[str, Any], app_url: str
) -> None:
    pages = Pages(app_url, WORKSPACES[0])
    contacts = paging.get("include_contacts", True)
    request = ListRequest(plural, include_contacts=contacts)
    others = {name: value for name, value in paging.items() if name != "include_contacts"}

    async def ask() -> Any:
        pool = ReadPool(app_url, max_size=1)
        await pool.open()
        async with pool.plain() as connection:  # outside a transaction, as the API does
            for _ in range(REPETITIONS):
                await pages.page(connection, request, **others)
            plans = await (await connection.execute(PLANS_OF_PAGES)).fetchall()
        await pool.close()
        return plans

    ((generic, custom),) = asyncio.run(ask())
    assert custom <= CUSTOM_PLANS
    assert generic == REPETITIONS - custom


@pytest.mark.parametrize(
    ("filters", "paging"),
    [
        ({"priority": "urgent"}, {}),
        ({"status": "active", "priority": "urgent"}, {}),
        ({"type": "investor"}, {"page": 500}),
    ],
)
def test_page_that_has_no_rows_is_not_looked_for(
    filters: dict[str, str], paging: dict[str, Any], plans: Plans
) -> None:
    plan = plans.of(ListRequest("accounts", filters=filters), **paging)
    assert "One-Time Filter" in plan, plan
    scans = re.findall(r"Scan.* on accounts t.*", plan)
    assert scans
    assert all("never executed" in each for each in scans), plan


RARE = {"status": "active", "assignedTo": str(UUID(int=4))}
FREQUENT = {"type": "customer", "status": "active"}
UNORDERED = {"priority": "low"}


@pytest.mark.parametrize("filters", [FREQUENT, UNORDERED])
def test_many_filtered_rows_are_read_in_order(filters: dict[str, str], plans: Plans) -> None:
    request = ListRequest("accounts", filters=filters, sort_by="company", descending=False)
    in_order, found = scans_of_filtered_page(plans.of(request))
    assert "accounts_workspace_id_company_key_id_idx" in in_order
    assert "never executed" not in in_order
    assert "never executed" in found


def test_few_filtered_rows_are_all_found(plans: Plans) -> None:
    request = ListRequest("accounts", filters=RARE, sort_by="company", descending=False)
    in_order, found = scans_of_filtered_page(plans.of(request))
    assert "never executed" in in_order
    assert "Seq Scan" not in found
    assert "never executed" not in found


@every_list
def test_pairs_of_filters_use_indexes(plural: str, plans: Plans) -> None:
    for names in itertools.combinations(sorted(LISTS[plural].counted), 2):
        filters = {name: SOME_STATUS[plural] if name == "status" else SOME[name] for name in names}
        for sort_by in LISTS[plural].sorts:
            plan = plans.of(ListRequest(plural, filters=filters, sort_by=sort_by))
            assert_by_index(plan, plural)
