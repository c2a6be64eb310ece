"""Lists: one page as JSON, with totals and aggregations, from the read tables.

Totals come from the counters that the projectors keep. A search, and a filter that is not among
`ListSpec.counted` (such as `accountId`), have no counter, so the matching rows are counted, through
the index.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import UUID

import orjson
import psycopg

from domain.shared.text import folded
from readmodels import kinds
from readmodels.cursors import InvalidCursor, decode_cursor, encode_cursor
from readmodels.pool import ENTERED, AsyncConnection
from readmodels.spec import ListSpec, Sort

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 500
PAGE_MAX = 20_000
SEARCH_MAX_CHARS = 200
TRIGRAM_CHARS = 3
"""Patterns shorter than this cannot use the index."""
CONTACTS_PER_ITEM_MAX = 100

CONTACTS = """(
    SELECT coalesce(json_agg(json_build_object(
               'id', c.id, 'name', c.name, 'email', c.email, 'phone', c.phone,
               'title', c.title, 'version', c.version) ORDER BY c.created_at, c.id), '[]')
      FROM (SELECT * FROM read.contacts c
             WHERE c.workspace_id = t.workspace_id AND c.account_id = t.id
             ORDER BY c.created_at, c.id LIMIT {limit}) AS c)"""

PAGE = """
WITH page AS MATERIALIZED (
    SELECT t.* FROM {table} AS t
     WHERE t.workspace_id = entered.workspace AND counted.total > %(offset)s AND {where}
     ORDER BY {order} LIMIT %(limit)s + 1 OFFSET %(offset)s
), numbered AS (
    SELECT t.*, row_number() OVER () AS ordinal FROM page AS t
)
SELECT coalesce(json_agg({item} ORDER BY ordinal) FILTER (WHERE ordinal <= %(limit)s), '[]')::text,
       CASE WHEN count(*) > %(limit)s THEN
           (array_agg(json_build_array({keys})::text ORDER BY ordinal))[%(limit)s] END
  FROM numbered AS t
"""
# The total comes first: without it, a page that has no rows would be looked for in all rows.
WHOLE_PAGE = f"""{ENTERED}
SELECT page.items, page.keys, counted.total, ({{stats}})
  FROM entered, LATERAL ({{total}}) AS counted(total), LATERAL ({{page}}) AS page(items, keys)
"""

ALL_ROWS = "SELECT t.* FROM {table} AS t WHERE t.workspace_id = %(workspace)s AND {where}"

IDS = """
SELECT array(SELECT t.id FROM {table} AS t WHERE t.workspace_id = %(workspace)s AND {where}
              ORDER BY t.created_at, t.id LIMIT %(limit)s),
       (SELECT position FROM projections WHERE name = %(projection)s)
"""

COUNT_FROM_COUNTERS = """
SELECT coalesce(sum(t.n), 0)::bigint FROM read.{counts_table} AS t
 WHERE t.workspace_id = entered.workspace AND {where}
"""

COUNT_ROWS = """
SELECT count(*) FROM {table} AS t WHERE t.workspace_id = entered.workspace AND {where}
"""


@dataclass(frozen=True)
class ListQuery:
    """A page of a list. The caller has validated the filters, which are given by wire name."""

    workspace_id: UUID
    filters: Mapping[str, str] = field(default_factory=dict)
    search: str | None = None
    sort_by: str = "created_at"
    descending: bool = True
    page: int = 1
    cursor: str | None = None
    page_size: int = PAGE_SIZE_DEFAULT
    include_contacts: bool = True
    include_stats: bool = False


def _specs() -> dict[str, ListSpec]:
    found = {}
    for info in pkgutil.iter_modules(kinds.__path__, "readmodels.kinds."):
        spec: ListSpec = importlib.import_module(info.name).SPEC
        found[spec.plural] = spec
    return found


LISTS: Mapping[str, ListSpec] = MappingProxyType(_specs())
"""The lists by the name of their collection."""


@dataclass(frozen=True)
class ListPage:
    """A page of a list as JSON, and what is needed for links to other pages."""

    content: bytes
    """`{items, pagination, aggregations?}`"""
    total_pages: int
    next_cursor: str | None


async def list_page(connection: AsyncConnection, spec: ListSpec, query: ListQuery) -> ListPage:
    """Read one page, by one statement, which enters the workspace. Raises `InvalidCursor`."""
    try:
        return await _page(connection, spec, query, _parameters(spec, query))
    except psycopg.DataError:
        # The caller has validated everything except the values in the cursor.
        raise InvalidCursor from None


async def list_ids(
    connection: AsyncConnection, spec: ListSpec, query: ListQuery, limit: int
) -> tuple[list[UUID], int]:
    """The first `limit` ids that match the filters, and the position that they show."""
    parameters = {**_parameters(spec, query), "limit": limit, "projection": spec.plural}
    statement = IDS.format(table=spec.table, where=_where(spec, query))
    row = await (await connection.execute(statement, parameters)).fetchone()
    assert row is not None
    return list(row[0]), int(row[1])


async def _page(
    connection: AsyncConnection, spec: ListSpec, query: ListQuery, parameters: dict[str, Any]
) -> ListPage:
    statement = WHOLE_PAGE.format(
        page=_page_sql(spec, query),
        total=_total_sql(spec, query),
        stats=_stats_sql(spec) if query.include_stats else "NULL",
    )
    row = await (await connection.execute(statement, parameters)).fetchone()
    assert row is not None
    items, next_keys, total, stats = row
    pagination = _pagination(query, total, next_keys)
    answer: bytes = b'{"items":' + items.encode() + b',"pagination":' + orjson.dumps(pagination)
    if stats is not None:
        answer += b',"aggregations":' + stats.encode()
    return ListPage(answer + b"}", pagination["totalPages"], pagination["nextCursor"])


def _pagination(query: ListQuery, total: int, next_keys: str | None) -> dict[str, Any]:
    return {
        "page": query.page,
        "pageSize": query.page_size,
        "totalItems": total,
        "totalPages": -(-total // query.page_size),
        "nextCursor": _encode_cursor(query, next_keys) if next_keys else None,
    }


def _page_sql(spec: ListSpec, query: ListQuery) -> str:
    sort = spec.sorts[query.sort_by]
    where = _where(spec, query)
    if query.cursor:
        where += f" AND {_after(sort, descending=query.descending)}"
    item = item_sql(spec, with_contacts=spec.with_contacts and query.include_contacts)
    return PAGE.format(
        table=spec.table,
        where=where,
        order=_order(sort, descending=query.descending),
        item=item,
        keys=", ".join(f"t.{column}::text" for column, _ in sort.keys),
    )


def item_sql(spec: ListSpec, *, with_contacts: bool) -> str:
    """SQL for one item over the row `t`."""
    pairs = [f"'{name}', {expression}" for name, expression in spec.items.items()]
    if with_contacts:
        pairs.append(f"'contacts', {CONTACTS.format(limit=CONTACTS_PER_ITEM_MAX)}")
    return f"json_build_object({', '.join(pairs)})"


def selection(spec: ListSpec, query: ListQuery) -> tuple[str, str, dict[str, Any]]:
    """SQL for all rows `t` of a list, for their order, and the parameters of both."""
    order = _order(spec.sorts[query.sort_by], descending=query.descending)
    rows = ALL_ROWS.format(table=spec.table, where=_where(spec, query))
    return rows, order, _parameters(spec, query)


def _total_sql(spec: ListSpec, query: ListQuery) -> str:
    where = _where(spec, query)
    if not query.search and set(query.filters) <= spec.counted:
        return COUNT_FROM_COUNTERS.format(counts_table=spec.counts_table, where=where)
    return COUNT_ROWS.format(table=spec.table, where=where)


def _stats_sql(spec: ListSpec) -> str:
    pairs = ", ".join(f"'{name}', ({value})" for name, value in spec.stats.items())
    return f"SELECT json_build_object({pairs})::text"


def _where(spec: ListSpec, query: ListQuery) -> str:
    conditions = [spec.base]
    for name in query.filters:
        column, type_ = spec.filters[name]
        conditions.append(f"t.{column} = %({name})s::{type_}")
    if query.search:
        if len(folded(query.search)) >= TRIGRAM_CHARS:
            conditions.append(f"t.id IN (SELECT {spec.search}(%(workspace)s, %(pattern)s))")
        else:
            conditions.append(spec.search_inline)
    return " AND ".join(conditions)


def _order(sort: Sort, *, descending: bool) -> str:
    direction = "DESC" if descending else "ASC"
    return ", ".join(f"t.{column} {direction}" for column, _ in sort.keys)


def _after(sort: Sort, *, descending: bool) -> str:
    columns = ", ".join(f"t.{column}" for column, _ in sort.keys)
    values = ", ".join(f"%(key{n})s::{type_}" for n, (_, type_) in enumerate(sort.keys))
    return f"({columns}) {'<' if descending else '>'} ({values})"


def _parameters(spec: ListSpec, query: ListQuery) -> dict[str, Any]:
    parameters: dict[str, Any] = dict.fromkeys(spec.filters)
    parameters.update(query.filters)
    parameters.update(
        workspace=query.workspace_id,
        limit=query.page_size,
        offset=0 if query.cursor else (query.page - 1) * query.page_size,
        pattern=_pattern(query.search) if query.search else None,
    )
    if query.cursor:
        keys = _decode_cursor(query, len(spec.sorts[query.sort_by].keys))
        parameters.update({f"key{n}": value for n, value in enumerate(keys)})
    return parameters


def _pattern(search: str) -> str:
    """The pattern for LIKE that finds folded text which contains the search."""
    escaped = folded(search).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _order_name(query: ListQuery) -> str:
    return f"{query.sort_by}:{'desc' if query.descending else 'asc'}"


def _encode_cursor(query: ListQuery, keys: str) -> str:
    return encode_cursor(orjson.dumps([_order_name(query), *orjson.loads(keys)]))


def _decode_cursor(query: ListQuery, length: int) -> list[str]:
    content = decode_cursor(query.cursor or "")
    if content[:1] != [_order_name(query)] or len(content) != 1 + length:
        raise InvalidCursor
    keys = content[1:]
    if not all(isinstance(key, str) and "\0" not in key for key in keys):
        raise InvalidCursor
    return keys
