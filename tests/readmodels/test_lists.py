"""Lists match the reference lists, for random requests."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from uuid import UUID, uuid4

import orjson
import pytest

from commands.entities import EntityCommands
from eventlog.scope import Scope
from projections.engine.live.runner import ProjectionEngine
from readmodels import lists
from readmodels.cursors import InvalidCursor
from readmodels.details import detail
from readmodels.lists import LISTS
from readmodels.pool import AsyncConnection
from server.postgres.embedded import Cluster
from tests.support.databases import Urls
from tests.support.list_pages import Pages, forget_statements
from tests.support.populated_workspaces import (
    SEARCHES,
    SEED,
    PopulatedDatabase,
    WorkspaceFiller,
    populated_database,
    random_requests,
)
from tests.support.reference_lists import (
    FILTERS,
    SORTS,
    ListRequest,
    comparable,
)

PAIRS = 300
PAGE_SIZES = [1, 2, 3, 7, 50, 500]

SORTED = {plural: sorted(SORTS[plural]) for plural in LISTS}
TOTAL_MAX = 3

every_list = pytest.mark.parametrize("plural", sorted(LISTS))


@pytest.fixture(scope="module")
def populated(cluster: Cluster, template: str) -> Iterator[PopulatedDatabase]:
    """Fill a database once for this module; no test changes it."""
    with populated_database(cluster, template, SEED) as made:
        yield made


@pytest.fixture
def pages(populated: PopulatedDatabase) -> Pages:
    """Return the pages of the first workspace."""
    return Pages(populated.urls.app, populated.workspaces[0])


@every_list
def test_lists_have_sorts_and_filters_of_reference_lists(plural: str) -> None:
    assert set(LISTS[plural].sorts) == set(SORTS[plural])
    assert set(LISTS[plural].filters) == set(FILTERS[plural].split())


@every_list
def test_pages_match_reference_lists(
    plural: str, pages: Pages, populated: PopulatedDatabase
) -> None:
    reference = populated.references[0]
    random = Random(SEED)

    async def compare(connection: AsyncConnection) -> None:
        for request in random_requests(plural, reference):
            size, number = random.choice(PAGE_SIZES), random.randint(1, 4)
            wanted = reference.items(request)
            page = await pages.page(
                connection, request, page=number, page_size=size, include_stats=True
            )
            start = (number - 1) * size
            items = [comparable(item) for item in page["items"]]
            assert items == wanted[start : start + size], request
            pagination = page["pagination"]
            assert pagination.pop("nextCursor") is None or len(wanted) > start + size
            assert pagination == {
                "page": number,
                "pageSize": size,
                "totalItems": len(wanted),
                "totalIsExact": True,
                "totalPages": -(-len(wanted) // size),
            }, request
            assert page["aggregations"] == reference.aggregations(request), request

    pages.reading(compare)


@every_list
def test_cursor_pages_hold_every_item_once_in_order(
    plural: str, pages: Pages, populated: PopulatedDatabase
) -> None:
    reference = populated.references[0]
    for number, request in enumerate(random_requests(plural, reference, number=8)):
        ids = pages.walk(request, PAGE_SIZES[number % 4])
        assert ids == [item["id"] for item in reference.items(request)], request


@every_list
def test_search_finds_items_that_contain_the_text(
    plural: str, pages: Pages, populated: PopulatedDatabase
) -> None:
    async def compare(connection: AsyncConnection) -> None:
        for search in SEARCHES:
            request = ListRequest(plural, search=search)
            page = await pages.page(connection, request, page_size=500)
            wanted = [item["id"] for item in populated.references[0].items(request)]
            assert [item["id"] for item in page["items"]] == wanted, search
            assert page["pagination"]["totalItems"] == len(wanted), search

    pages.reading(compare)


@pytest.fixture
def changed_limits() -> Iterator[None]:
    """Statements have the limits that a test sets."""
    forget_statements()
    yield
    forget_statements()


@every_list
@pytest.mark.usefixtures("changed_limits")
@pytest.mark.parametrize("way", ["walked", "found", "found too many"])
def test_search_that_finds_many_items_counts_only_some(
    plural: str,
    way: str,
    pages: Pages,
    populated: PopulatedDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether rows are read in the order of the list or found by the index, items are the same."""
    monkeypatch.setattr(lists, "SEARCH_TOTAL_MAX", TOTAL_MAX)
    monkeypatch.setattr(lists, "PROBE_HITS", 1 if way == "walked" else 10**6)
    if way == "found too many":
        monkeypatch.setattr(lists, "FOUND_ROWS_MAX", TOTAL_MAX)
    reference, random = populated.references[0], Random(SEED)
    are_exact = set()
    for search in ("a", "e", "an", "acme", "stra", "100", "nothing"):
        sort_by, descending = random.choice(SORTED[plural]), random.random() < 0.5
        request = ListRequest(plural, search=search, sort_by=sort_by, descending=descending)
        wanted = [item["id"] for item in reference.items(request)]
        for number in (1, 2, 5):
            page = pages.ask(request, page=number, page_size=2)
            found = [item["id"] for item in page["items"]]
            assert found == wanted[2 * number - 2 : 2 * number], request
            pagination = page["pagination"]
            assert pagination["totalItems"] == min(len(wanted), TOTAL_MAX), request
            assert pagination["totalIsExact"] == (len(wanted) <= TOTAL_MAX), request
            are_exact.add(pagination["totalIsExact"])
        assert pages.walk(request, 3) == wanted, request
    assert are_exact == ({True} if plural == "members" else {True, False})  # members are few


def test_accounts_are_found_by_any_letters(pages: Pages, populated: PopulatedDatabase) -> None:
    """One and two letters of the companies, in any order, and characters of the query language."""
    reference, random = populated.references[0], Random(SEED)
    texts = "".join(item["company"] for item in reference.items(ListRequest("accounts")))
    letters = sorted({*texts, *"'\\\":*&|!()<> 京é"})
    searches = [*letters, "\u0301", "\x1f", "\ta"] + [
        "".join(random.choices(letters, k=2)) for _ in range(PAIRS)
    ]

    async def compare(connection: AsyncConnection) -> None:
        for search in searches:
            request = ListRequest("accounts", search=search)
            page = await pages.page(connection, request, page_size=500)
            wanted = [item["id"] for item in reference.items(request)]
            assert [item["id"] for item in page["items"]] == wanted, search

    pages.reading(compare)


@every_list
def test_detail_shows_the_fields_of_the_list(
    plural: str, pages: Pages, populated: PopulatedDatabase
) -> None:
    async def compare(connection: AsyncConnection) -> None:
        for item in populated.references[0].items(ListRequest(plural))[:10]:
            found = await detail(connection, plural, pages.workspace_id, UUID(item["id"]))
            assert found is not None
            version, body = found
            shown = comparable(orjson.loads(body))
            shown.pop("opportunities", None)
            assert shown == item
            assert version == item["version"]

    pages.reading(compare)


def test_account_detail_shows_its_opportunities(pages: Pages, populated: PopulatedDatabase) -> None:
    rows = populated.references[0].rows("opportunities")

    async def compare(connection: AsyncConnection) -> None:
        for account_id in {row["account_id"] for row in rows} - {None}:
            mine = [row for row in rows if row["account_id"] == account_id]
            mine.sort(key=lambda row: (row["created_at"], row["id"]), reverse=True)
            found = await detail(connection, "accounts", pages.workspace_id, account_id)
            assert found is not None
            assert orjson.loads(found[1])["opportunities"] == [
                {
                    "id": str(row["id"]),
                    "name": row["name"],
                    "stage": row["stage"],
                    "value": None if row["value"] is None else str(row["value"]),
                    "version": row["version"],
                }
                for row in mine
            ]

    pages.reading(compare)


@pytest.mark.parametrize("sort_by", ["company", "status", "created_at", "updated_at"])
@pytest.mark.parametrize("descending", [True, False])
def test_cursor_pages_during_writes_repeat_and_miss_no_item(
    urls: Urls, commands: EntityCommands, engine: ProjectionEngine, sort_by: str, descending: bool
) -> None:
    scope = Scope(uuid4())
    filler = WorkspaceFiller(commands, scope, SEED)
    filler.fill(accounts=20, others=0)
    engine.catch_up()
    before = {str(account) for account in filler.accounts}
    pages = Pages(urls.app, scope.workspace_id)
    request = ListRequest("accounts", sort_by=sort_by, descending=descending)
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = pages.ask(request, page_size=3, cursor=cursor)
        ids += [item["id"] for item in page["items"]]
        cursor = page["pagination"]["nextCursor"]
        if cursor is None:
            break
        for _ in range(2):
            if len(filler.accounts) < 40:
                filler.add_account()
        engine.catch_up()
    assert len(ids) == len(set(ids))
    assert before <= set(ids)


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "=",
        "bnVsbA",
        "e30",
        "WyJjcmVhdGVkX2F0OmRlc2MiXQ",
        "WyJjcmVhdGVkX2F0OmRlc2MiLDEsMl0",
        # Of the right order, with an invalid time, an invalid id, and a NUL.
        "WyJjcmVhdGVkX2F0OmRlc2MiLCJzb29uIiwieCJd",
        "WyJjcmVhdGVkX2F0OmRlc2MiLCIyMDI2LTAxLTAxIiwieCJd",
        "WyJjcmVhdGVkX2F0OmRlc2MiLCJcdTAwMDAiLCJ4Il0",
    ],
)
def test_forged_cursor_is_refused(cursor: str, pages: Pages) -> None:
    with pytest.raises(InvalidCursor):
        pages.ask(ListRequest("accounts"), cursor=cursor)


def test_cursor_of_another_order_is_refused(pages: Pages) -> None:
    cursor = pages.ask(ListRequest("accounts"), page_size=1)["pagination"]["nextCursor"]
    with pytest.raises(InvalidCursor):
        pages.ask(ListRequest("accounts", descending=False), cursor=cursor)
    with pytest.raises(InvalidCursor):
        pages.ask(ListRequest("accounts", sort_by="company"), cursor=cursor)
