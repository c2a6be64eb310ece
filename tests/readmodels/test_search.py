"""A search finds the rows with a text that contains its text, whatever the characters are."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from domain.shared.text import folded, joinable
from eventlog.connections import Connection
from readmodels.lists import LISTS, ListQuery, list_ids
from readmodels.pool import AsyncConnection
from server.postgres.embedded import Cluster, prepare_database
from tests.support.list_pages import Pages
from tests.support.list_rows import insert_rows
from tests.support.oracle import SEARCHED
from tests.support.reference_lists import ListRequest

DATABASE = "test_search"
ROWS = 120
WORKSPACE = UUID(int=1)
SEED = 44
TYPED = [*"aabbe  ABéßžŁİ'\"\\:*&|!()%_<->[]{}.,7\n\t京東ガ𝒳👍🏽ж", "e\u0301"]
CJK = [chr(0x4E00 + n) for n in range(20_000)]
LONG = "".join(Random(SEED).choices(CJK, k=110_000)) + " glockenspiel"
"""It has about as many different groups as a text may have."""
TOO_LONG = LONG + "".join(CJK) + " xylophone"
"""It has too many, so it is indexed without groups."""

Texts = dict[UUID, list[str]]
"""The searched texts of each row."""


@pytest.fixture(scope="module")
def found_in(cluster: Cluster, template: str) -> Iterator[tuple[Pages, dict[str, Texts]]]:
    """Fill every list of a workspace with texts of odd characters; return them by list."""
    urls = prepare_database(cluster, DATABASE, template=template)
    random = Random(SEED)
    with psycopg.connect(cluster.url("postgres", DATABASE), autocommit=True) as connection:
        texts = {plural: fill(connection, plural, random) for plural in SEARCHED}
    yield Pages(urls.app, WORKSPACE), texts
    with psycopg.connect(cluster.superuser_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())


def fill(connection: Connection, plural: str, random: Random) -> Texts:
    """Write rows, and odd texts into the columns that a search looks at."""
    insert_rows(connection, plural, ROWS)
    ids = connection.execute(
        f"SELECT id FROM read.{plural} WHERE workspace_id = %s ORDER BY id".encode(), [WORKSPACE]
    ).fetchall()
    texts: Texts = {}
    for number, (id_,) in enumerate(ids):
        first, *others = SEARCHED[plural].split()
        long = {0: LONG, 1: TOO_LONG}
        columns: dict[str, Any] = {f"{first}_folded": long.get(number) or text(random)}
        columns |= {f"{name}_folded": random.choice([text(random), None]) for name in others}
        texts[id_] = [each for each in columns.values() if each is not None]
        if plural == "accounts":
            names = [text(random) for _ in range(random.randrange(4))]
            texts[id_] += names
            columns["contact_names_folded"] = Jsonb(
                {str(UUID(int=n)): joinable(name) for n, name in enumerate(names)}
            )
        assignments = ", ".join(f"{name} = %({name})s" for name in columns)
        update = f"UPDATE read.{plural} SET {assignments} WHERE id = %(id)s"
        connection.execute(update.encode(), {**columns, "id": id_})
    return texts


def text(random: Random) -> str:
    """Return a text of up to ten characters, folded."""
    return folded("".join(random.choices(TYPED, k=random.randrange(11))))


# Characters of the private use area stand for those that cannot be joined (`joinable`).
storable = st.characters(exclude_categories=["Cs", "Co"], exclude_characters="\0")
typed = st.lists(st.sampled_from(TYPED) | storable, min_size=1, max_size=8).map("".join)


@pytest.mark.parametrize("plural", sorted(SEARCHED))
@settings(deadline=None)
@given(data=st.data())
def test_search_finds_texts_that_contain_it(
    plural: str, found_in: tuple[Pages, dict[str, Texts]], data: st.DataObject
) -> None:
    pages, texts_of = found_in
    texts = texts_of[plural]
    written = [each for row in texts.values() for each in row if each]
    search = data.draw(st.one_of(st.sampled_from(written).flatmap(part), typed))
    found = folded(search)
    wanted = sorted(id_ for id_, row in texts.items() if any(found in each for each in row))

    async def ask(connection: AsyncConnection) -> tuple[list[UUID], list[UUID]]:
        query = ListQuery(WORKSPACE, search=search)
        by_index, _ = await list_ids(connection, LISTS[plural], query, ROWS)
        page = await pages.page(connection, ListRequest(plural, search=search), page_size=ROWS)
        return by_index, [UUID(item["id"]) for item in page["items"]]

    by_index, of_page = pages.reading(ask)
    assert sorted(by_index) == wanted
    assert sorted(of_page) == wanted


def part(whole: str) -> st.SearchStrategy[str]:
    """Parts of a text, of up to eight characters."""
    starts = st.integers(max(0, len(whole) - 60), len(whole) - 1)
    return st.tuples(starts, st.integers(1, 8)).map(lambda at: whole[at[0] : at[0] + at[1]])


@pytest.mark.parametrize("plural", sorted(SEARCHED))
def test_long_texts_are_found(plural: str, found_in: tuple[Pages, dict[str, Texts]]) -> None:
    pages, texts = found_in
    long, too_long = (str(id_) for id_ in sorted(texts[plural])[:2])
    for search in ("xylophone", "xyl", "xy", "glockenspiel", "gl", LONG[-200:], LONG[:2], "zzz"):
        page = pages.ask(ListRequest(plural, search=search), page_size=ROWS)
        found = {item["id"] for item in page["items"]}
        assert (long in found) == (search in LONG), search
        assert (too_long in found) == (search in TOO_LONG), search
