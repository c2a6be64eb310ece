"""Lists answer what a slow and simple list would, whatever is asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from uuid import UUID, uuid4

import orjson
import pytest

from commands.entities import EntityCommands
from eventlog.scope import Scope
from projections.engine.live.runner import ProjectionEngine
from readmodels.details import detail
from readmodels.lists import LISTS, InvalidCursor
from readmodels.pool import AsyncConnection
from server.postgres.embedded import Cluster
from tests.conftest import Urls
from tests.support.crowds import SEARCHES, Crowd, Crowded, crowded_database
from tests.support.naive import FILTERS, SORTS, Question, World, column, comparable
from tests.support.pages import Pages

SEED = 20260131
QUESTIONS_PER_LIST = 60
PAGE_SIZES = [1, 2, 3, 7, 50, 500]

every_list = pytest.mark.parametrize("plural", sorted(LISTS))


@pytest.fixture(scope="module")
def crowded(cluster: Cluster, template: str) -> Iterator[Crowded]:
    """Made once for this module; nobody changes anything in it."""
    with crowded_database(cluster, template, SEED) as made:
        yield made


@pytest.fixture
def pages(crowded: Crowded) -> Pages:
    """The pages of the first workspace."""
    return Pages(crowded.urls.app, crowded.workspaces[0])


def questions(plural: str, world: World, number: int = QUESTIONS_PER_LIST) -> list[Question]:
    """Random questions: filters with values that occur, and some that do not."""
    random = Random(f"{SEED} {plural}")
    return [_question(random, plural, world) for _ in range(number)]


def _question(random: Random, plural: str, world: World) -> Question:
    filters = {}
    for name in FILTERS[plural].split():
        values = {row[column(name)] for row in world.rows(plural)} - {None}
        if values and random.random() < 0.3:
            filters[name] = str(random.choice([*sorted(values), next(iter(values))]))
    return Question(
        plural,
        filters=filters,
        search=random.choice([None, *random.sample(SEARCHES, 2)]),
        sort_by=random.choice(sorted(SORTS[plural])),
        descending=random.random() < 0.5,
        include_contacts=random.random() < 0.5,
    )


@every_list
def test_each_list_can_be_ordered_as_the_slow_one_can(plural: str) -> None:
    assert set(LISTS[plural].sorts) == set(SORTS[plural])
    assert set(LISTS[plural].filters) == set(FILTERS[plural].split())


@every_list
def test_pages_are_those_of_a_slow_and_simple_list(
    plural: str, pages: Pages, crowded: Crowded
) -> None:
    world = crowded.worlds[0]
    random = Random(SEED)

    async def compare(connection: AsyncConnection) -> None:
        for question in questions(plural, world):
            size, number = random.choice(PAGE_SIZES), random.randint(1, 4)
            wanted = world.items(question)
            page = await pages.page(
                connection, question, page=number, page_size=size, include_stats=True
            )
            start = (number - 1) * size
            items = [comparable(item) for item in page["items"]]
            assert items == wanted[start : start + size], question
            pagination = page["pagination"]
            assert pagination.pop("nextCursor") is None or len(wanted) > start + size
            assert pagination == {
                "page": number,
                "pageSize": size,
                "totalItems": len(wanted),
                "totalPages": -(-len(wanted) // size),
            }, question
            assert page["aggregations"] == world.aggregations(question), question

    pages.reading(compare)


@every_list
def test_walking_by_cursor_meets_everything_once_and_in_order(
    plural: str, pages: Pages, crowded: Crowded
) -> None:
    world = crowded.worlds[0]
    for number, question in enumerate(questions(plural, world, number=8)):
        ids = pages.walk(question, PAGE_SIZES[number % 4])
        assert ids == [item["id"] for item in world.items(question)], question


@every_list
def test_every_search_finds_what_contains_it(plural: str, pages: Pages, crowded: Crowded) -> None:
    async def compare(connection: AsyncConnection) -> None:
        for search in SEARCHES:
            question = Question(plural, search=search)
            page = await pages.page(connection, question, page_size=500)
            wanted = [item["id"] for item in crowded.worlds[0].items(question)]
            assert [item["id"] for item in page["items"]] == wanted, search
            assert page["pagination"]["totalItems"] == len(wanted), search

    pages.reading(compare)


@every_list
def test_the_page_of_one_thing_shows_what_the_list_shows(
    plural: str, pages: Pages, crowded: Crowded
) -> None:
    async def compare(connection: AsyncConnection) -> None:
        for item in crowded.worlds[0].items(Question(plural))[:10]:
            found = await detail(connection, plural, pages.workspace_id, UUID(item["id"]))
            assert found is not None
            version, body = found
            shown = comparable(orjson.loads(body))
            shown.pop("opportunities", None)
            assert shown == item
            assert version == item["version"]

    pages.reading(compare)


def test_the_page_of_an_account_shows_its_opportunities(pages: Pages, crowded: Crowded) -> None:
    rows = crowded.worlds[0].rows("opportunities")

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
def test_walking_by_cursor_while_others_write_repeats_and_misses_nothing(
    urls: Urls, commands: EntityCommands, engine: ProjectionEngine, sort_by: str, descending: bool
) -> None:
    scope = Scope(uuid4())
    crowd = Crowd(commands, scope, SEED)
    crowd.fill(accounts=20, others=0)
    engine.catch_up()
    before = {str(account) for account in crowd.accounts}
    pages = Pages(urls.app, scope.workspace_id)
    question = Question("accounts", sort_by=sort_by, descending=descending)
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = pages.ask(question, page_size=3, cursor=cursor)
        ids += [item["id"] for item in page["items"]]
        cursor = page["pagination"]["nextCursor"]
        if cursor is None:
            break
        for _ in range(2):
            if len(crowd.accounts) < 40:
                crowd.add_account()
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
        # For the right order, with a time that is none, an id that is none, a NUL.
        "WyJjcmVhdGVkX2F0OmRlc2MiLCJzb29uIiwieCJd",
        "WyJjcmVhdGVkX2F0OmRlc2MiLCIyMDI2LTAxLTAxIiwieCJd",
        "WyJjcmVhdGVkX2F0OmRlc2MiLCJcdTAwMDAiLCJ4Il0",
    ],
)
def test_a_cursor_that_was_made_up_is_named_as_such(cursor: str, pages: Pages) -> None:
    with pytest.raises(InvalidCursor):
        pages.ask(Question("accounts"), cursor=cursor)


def test_a_cursor_of_another_order_is_refused(pages: Pages) -> None:
    cursor = pages.ask(Question("accounts"), page_size=1)["pagination"]["nextCursor"]
    with pytest.raises(InvalidCursor):
        pages.ask(Question("accounts", descending=False), cursor=cursor)
    with pytest.raises(InvalidCursor):
        pages.ask(Question("accounts", sort_by="company"), cursor=cursor)
