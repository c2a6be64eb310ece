"""Exports hold what a slow and simple list would, whatever is asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

import pytest

from readmodels.exports import Format, blocks, list_export
from readmodels.lists import LISTS, ListQuery
from readmodels.pool import AsyncConnection
from server.postgres.embedded import Cluster
from tests.readmodels.test_lists import SEED, questions
from tests.support.crowds import Crowded, crowded_database
from tests.support.export_files import as_rows, objects, rows
from tests.support.naive import Question, comparable
from tests.support.pages import Pages

QUESTIONS_PER_LIST = 30


@pytest.fixture(scope="module")
def crowded(cluster: Cluster, template: str) -> Iterator[Crowded]:
    """Made once for this module; nobody changes anything in it."""
    with crowded_database(cluster, template, SEED) as made:
        yield made


async def exported(connection: AsyncConnection, query: ListQuery, plural: str, form: Format) -> str:
    """The whole export."""
    export = await list_export(connection, LISTS[plural], query, form)
    async with aclosing(blocks(connection, export)) as stream:
        return b"".join([block async for block in stream]).decode()


@pytest.mark.parametrize("plural", sorted(LISTS))
def test_exports_are_those_of_a_slow_and_simple_list(plural: str, crowded: Crowded) -> None:
    world, workspace_id = crowded.worlds[0], crowded.workspaces[0]

    async def compare(connection: AsyncConnection) -> None:
        for question in questions(plural, world, QUESTIONS_PER_LIST):
            query = ListQuery(
                workspace_id,
                filters=question.filters,
                search=question.search,
                sort_by=question.sort_by,
                descending=question.descending,
                include_contacts=question.include_contacts,
            )
            items = objects(await exported(connection, query, plural, Format.NDJSON))
            assert [comparable(item) for item in items] == world.items(question), question
            table = await exported(connection, query, plural, Format.CSV)
            assert rows(table) == as_rows(items), question

    Pages(crowded.urls.app, workspace_id).reading(compare)


def test_there_is_something_to_ask_for(crowded: Crowded) -> None:
    for plural in LISTS:
        assert crowded.worlds[0].items(Question(plural))
