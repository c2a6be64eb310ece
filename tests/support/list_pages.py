"""Pages of lists, read as the API reads them: under its role, in one workspace."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import orjson

from readmodels.details import detail_statement
from readmodels.lists import LISTS, ListQuery, list_page, page_statement
from readmodels.pool import AsyncConnection, ReadPool
from tests.support.reference_lists import ListRequest

T = TypeVar("T")


def forget_statements() -> None:
    """Have the statements of lists and details made from their parts again."""
    page_statement.cache_clear()
    detail_statement.cache_clear()


class Pages:
    """Reads pages of lists of one workspace."""

    def __init__(self, app_url: str, workspace_id: UUID) -> None:
        self._url = app_url
        self.workspace_id = workspace_id

    def ask(self, request: ListRequest, **paging: Any) -> Any:
        """Return one page, parsed."""

        async def ask(connection: AsyncConnection) -> Any:
            return await self.page(connection, request, **paging)

        return self.reading(ask)

    def walk(self, request: ListRequest, page_size: int) -> list[str]:
        """Return the ids of all items, read page after page by cursor."""

        async def walk(connection: AsyncConnection) -> list[str]:
            ids: list[str] = []
            cursor: str | None = None
            while True:
                page = await self.page(connection, request, page_size=page_size, cursor=cursor)
                ids += [item["id"] for item in page["items"]]
                cursor = page["pagination"]["nextCursor"]
                if cursor is None:
                    return ids

        return self.reading(walk)

    def reading(self, read: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Call `read` with a connection in this workspace; return its result."""

        async def run() -> T:
            pool = ReadPool(self._url, max_size=1)
            await pool.open()
            try:
                async with pool.workspace(self.workspace_id) as connection:
                    return await read(connection)
            finally:
                await pool.close()

        return asyncio.run(run())

    async def page(self, connection: AsyncConnection, request: ListRequest, **paging: Any) -> Any:
        """Return one page, parsed, read on an open connection."""
        query = ListQuery(
            self.workspace_id,
            filters=request.filters,
            search=request.search,
            sort_by=request.sort_by,
            descending=request.descending,
            include_contacts=request.include_contacts,
            **paging,
        )
        page = await list_page(connection, LISTS[request.plural], query)
        return orjson.loads(page.content)
