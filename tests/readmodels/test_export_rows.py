"""Exports hold the rows of the reference lists, for random requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

import pytest

from readmodels.exports import Format, blocks, list_export
from readmodels.lists import LISTS, ListQuery
from readmodels.pool import AsyncConnection
from server.postgres.embedded import Cluster
from tests.support.export_files import as_rows, objects, rows
from tests.support.list_pages import Pages
from tests.support.populated_workspaces import (
    SEED,
    PopulatedDatabase,
    populated_database,
    random_requests,
)
from tests.support.reference_lists import ListRequest, comparable

REQUESTS_PER_LIST = 30


@pytest.fixture(scope="module")
def populated(cluster: Cluster, template: str) -> Iterator[PopulatedDatabase]:
    """Fill a database once for this module; no test changes it."""
    with populated_database(cluster, template, SEED) as made:
        yield made


async def exported(connection: AsyncConnection, query: ListQuery, plural: str, form: Format) -> str:
    """Return the whole export."""
    export = await list_export(connection, LISTS[plural], query, form)
    async with aclosing(blocks(connection, export)) as stream:
        return b"".join([block async for block in stream]).decode()


@pytest.mark.parametrize("plural", sorted(LISTS))
def test_exports_match_reference_lists(plural: str, populated: PopulatedDatabase) -> None:
    reference, workspace_id = populated.references[0], populated.workspaces[0]

    async def compare(connection: AsyncConnection) -> None:
        for request in random_requests(plural, reference, REQUESTS_PER_LIST):
            query = ListQuery(
                workspace_id,
                filters=request.filters,
                search=request.search,
                sort_by=request.sort_by,
                descending=request.descending,
                include_contacts=request.include_contacts,
            )
            items = objects(await exported(connection, query, plural, Format.NDJSON))
            assert [comparable(item) for item in items] == reference.items(request), request
            table = await exported(connection, query, plural, Format.CSV)
            assert rows(table) == as_rows(items), request

    Pages(populated.urls.app, workspace_id).reading(compare)


def test_every_reference_list_has_items(populated: PopulatedDatabase) -> None:
    for plural in LISTS:
        assert populated.references[0].items(ListRequest(plural))
