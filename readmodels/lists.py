"""Lists: one page as JSON, with totals and aggregations, from the read tables.

Totals come from the counters that the projectors keep. A filter that is not among
`ListSpec.counted` (such as `accountId`) has no counter, so the matching rows are counted, through
the index. A search counts to SEARCH_TOTAL_MAX and then says that there are more (ADR 32).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import psycopg

from domain.shared.text import folded, joinable
from eventlog.connections import ENTERED, AsyncConnection
from eventlog.libpq.rows import Statement
from readmodels import kinds
from readmodels.cursors import InvalidCursor, decode_cursor, encode_cursor
from readmodels.spec import CREATED_AT, ListSpec, Sort, item_sql, joined

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 500
PAGE_MAX = 20_000
SEARCH_MAX_CHARS = 200
SEARCH_TOTAL_MAX = 1_000
"""A search that finds more items has this total, and says that it is not exact."""
PROBE_ROWS = 2_000
PROBE_HITS = 100
"""A search that finds this many among the first PROBE_ROWS rows of the list is taken as frequent:
then the rows are read in the order of the list until enough were found. Else the matching rows are
found through the index."""
SHAPES_MAX = 1_000
"""Maximum number of statements whose text is kept, some 5 MB."""
WALK_ROWS_MAX = 30_000
"""A frequent search reads no more rows to count its total. If that was not enough, it is rare."""
FOUND_ROWS_MAX = 4_000
"""No more rows than these are found through the index and sorted. If there are more, one comes soon
in the order of the list."""

ITEMS = """
SELECT (SELECT '[' || coalesce(string_agg({item}::text, ','), '') || ']'
          FROM (SELECT t.* FROM page AS t LIMIT {limit}) AS t{joins}) AS items,
       (SELECT json_build_array({keys})::text
          FROM (SELECT t.* FROM page AS t LIMIT 1 OFFSET {limit} - 1) AS t
         WHERE (SELECT count(*) FROM page) > {limit}) AS keys
"""
PAGE = f"""
WITH page AS MATERIALIZED (
    SELECT t.* FROM {{table}} AS t
     WHERE t.workspace_id = entered.workspace AND counted.total > {{offset}} AND {{where}}
       AND {{after}}
     ORDER BY {{order}} LIMIT {{limit}} + 1 OFFSET {{offset}}
)
{ITEMS}"""
# The ids of the rows that are passed over stand in the index; the rows themselves are not read.
LATER_PAGE = f"""
WITH page AS MATERIALIZED (
    SELECT t.* FROM (
        SELECT t.id FROM {{table}} AS t
         WHERE t.workspace_id = entered.workspace AND counted.total > {{offset}} AND {{where}}
         ORDER BY {{order}} LIMIT {{limit}} + 1 OFFSET {{offset}}) AS shown
      JOIN {{table}} AS t ON t.workspace_id = entered.workspace AND t.id = shown.id
     ORDER BY {{order}}
)
{ITEMS}"""
# Few rows are all found, and sorted. Of many, one comes soon in the order of the page. The counters
# say which: a row that is found takes about twice the time of one that is passed.
ARE_FEW = "2 * counted.total * counted.total <= counted.all_rows * ({offset} + {limit})"
FILTERED_PAGE = f"""
WITH few AS MATERIALIZED (
    SELECT t.* FROM {{table}} AS t
     WHERE t.workspace_id = entered.workspace AND counted.total > {{offset}} AND {ARE_FEW}
       AND {{where}} AND {{after}}
), page AS MATERIALIZED (
    (SELECT t.* FROM few AS t ORDER BY {{order}} LIMIT {{limit}} + 1 OFFSET {{offset}})
     UNION ALL
    (SELECT t.* FROM (
        SELECT t.* FROM {{table}} AS t
         WHERE t.workspace_id = entered.workspace AND counted.total > {{offset}}
           AND NOT ({ARE_FEW}) AND {{where_in_order}} AND {{after}}
         ORDER BY {{order}} OFFSET 0) AS t
      WHERE {{where}} ORDER BY {{order}} LIMIT {{limit}} + 1 OFFSET {{offset}})
)
{ITEMS}"""
# The total comes first: without it, a page that has no rows would be looked for in all rows.
WHOLE_PAGE = f"""{ENTERED}
SELECT page.items, page.keys, counted.total, ({{stats}})
  FROM entered, LATERAL ({{total}}) AS counted, LATERAL ({{page}}) AS page
"""

SEARCH_PAGE = f"""{ENTERED},
probed AS MATERIALIZED (
    SELECT (SELECT count(*) FROM (
                SELECT FROM ({{first_rows}} LIMIT {{probe_rows}}) AS t
                 WHERE {{matches}} LIMIT {{probe_hits}}) AS t) >= {{probe_hits}} AS is_promising
      FROM entered
), walked AS MATERIALIZED (
    SELECT is_promising AND (SELECT count(*) FROM (
               SELECT FROM ({{first_rows}} LIMIT {{walk_rows}}) AS t
                WHERE {{matches}} LIMIT {{total_max}} + 1) AS t) > {{total_max}} AS is_frequent
      FROM entered, probed
), found AS MATERIALIZED (
    SELECT t.* FROM entered, walked, LATERAL (
        SELECT t.* FROM {{rows_by_index}}
         WHERE t.workspace_id = entered.workspace AND NOT walked.is_frequent AND {{where}}
         LIMIT {{found_max}} + 1) AS t
), counted AS MATERIALIZED (
    SELECT CASE WHEN is_frequent THEN {{total_max}} + 1 ELSE n END AS total,
           is_frequent OR n > {{found_max}} AS are_many
      FROM walked, (SELECT count(*) AS n FROM found) AS f
), page AS MATERIALIZED (
    SELECT t.* FROM entered, counted, LATERAL (
        SELECT t.* FROM (
            SELECT t.* FROM {{table}} AS t
             WHERE t.workspace_id = entered.workspace AND counted.are_many
               AND {{where}} AND {{after}}
             ORDER BY {{order}} OFFSET 0) AS t
         WHERE {{matches}} ORDER BY {{order}} LIMIT {{limit}} + 1 OFFSET {{offset}}) AS t
     UNION ALL
    SELECT t.* FROM counted, LATERAL (
        SELECT t.* FROM found AS t WHERE NOT counted.are_many AND {{after}}
         ORDER BY {{order}} LIMIT {{limit}} + 1 OFFSET {{offset}}) AS t
)
SELECT shown.items, shown.keys, counted.total, ({{stats}})
  FROM entered, counted, ({ITEMS}) AS shown
"""
FIRST_ROWS = """
SELECT t.* FROM {table} AS t WHERE t.workspace_id = entered.workspace AND {where}
 ORDER BY {order}"""

ALL_ROWS = "SELECT t.* FROM {table} AS t WHERE t.workspace_id = %(workspace)s AND {where}"

IDS = """
SELECT array(SELECT t.id FROM {table} AS t WHERE t.workspace_id = %(workspace)s AND {where}
              ORDER BY t.created_at, t.id LIMIT %(limit)s),
       (SELECT position FROM projections WHERE name = %(projection)s)
"""

COUNT_FROM_COUNTERS = """
SELECT coalesce(sum(t.n) FILTER (WHERE {where}), 0)::bigint AS total, sum(t.n)::bigint AS all_rows
  FROM read.{counts_table} AS t WHERE t.workspace_id = entered.workspace
"""

WHOLE_COUNT = """
SELECT coalesce(sum(t.n), 0)::bigint AS total
  FROM read.{totals_table} AS t WHERE t.workspace_id = entered.workspace
"""

COUNT_ROWS = """
SELECT count(*) AS total FROM {table} AS t WHERE t.workspace_id = entered.workspace AND {where}
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


class Finder(Enum):
    """How the rows that match a search are found."""

    NONE = "there is no search"
    INDEX = "by the index of letters"
    INLINE = "by comparing each row"


class Shape(NamedTuple):
    """What decides the text of a page's statement. The rest of a query are parameters."""

    filters: tuple[str, ...]
    finder: Finder
    sort_by: str
    descending: bool
    page_size: int
    by_cursor: bool
    has_offset: bool
    include_contacts: bool
    include_stats: bool


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
    total_is_exact: bool
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
    row = await page_statement(spec.plural, _shape(spec, query)).fetch_row(connection, parameters)
    assert row is not None
    items, next_keys, total, stats = row
    assert items is not None
    assert total is not None
    pagination = _pagination(query, int(total), next_keys)
    parts = [b'{"items":', items, b',"pagination":', orjson.dumps(pagination)]
    if stats is not None:
        parts += [b',"aggregations":', stats]
    return ListPage(
        b"".join([*parts, b"}"]),
        pagination["totalPages"],
        pagination["totalIsExact"],
        pagination["nextCursor"],
    )


def _pagination(query: ListQuery, total: int, next_keys: bytes | None) -> dict[str, Any]:
    is_exact = not query.search or total <= SEARCH_TOTAL_MAX
    total = total if is_exact else SEARCH_TOTAL_MAX
    return {
        "page": query.page,
        "pageSize": query.page_size,
        "totalItems": total,
        "totalIsExact": is_exact,
        "totalPages": -(-total // query.page_size),
        "nextCursor": _encode_cursor(query, next_keys) if next_keys else None,
    }


@lru_cache(SHAPES_MAX)
def page_statement(plural: str, shape: Shape) -> Statement:
    """The statement of all pages of one shape."""
    spec = LISTS[plural]
    return Statement(
        _list_sql(spec, shape) if shape.finder is Finder.NONE else _search_sql(spec, shape)
    )


def _shape(spec: ListSpec, query: ListQuery) -> Shape:
    return Shape(
        tuple(query.filters),
        _finder(query.search),
        query.sort_by,
        query.descending,
        query.page_size,
        query.cursor is not None,
        _offset(query) > 0,
        query.include_contacts,
        query.include_stats,
    )


def _finder(search: str | None) -> Finder:
    if not search:
        return Finder.NONE
    # Nothing remains of an accent alone, so it is contained in every text.
    return Finder.INDEX if folded(search) else Finder.INLINE


def _list_sql(spec: ListSpec, shape: Shape) -> str:
    parts = _parts(spec, shape)
    template = LATER_PAGE if shape.has_offset else PAGE
    if _is_counted(spec, shape) and set(shape.filters) - _filters_in_order(spec, shape):
        template = FILTERED_PAGE
    page = template.format_map(parts)
    return WHOLE_PAGE.format(page=page, total=_total_sql(spec, shape), stats=parts["stats"])


def _search_sql(spec: ListSpec, shape: Shape) -> str:
    parts = _parts(spec, shape)
    return SEARCH_PAGE.format_map(
        {
            **parts,
            "first_rows": FIRST_ROWS.format_map(parts),
            "matches": spec.search_inline,
            "rows_by_index": _rows_by_index(spec, shape),
            "probe_rows": PROBE_ROWS,
            "probe_hits": PROBE_HITS,
            "walk_rows": WALK_ROWS_MAX,
            "found_max": FOUND_ROWS_MAX,
            "total_max": SEARCH_TOTAL_MAX,
        }
    )


def _parts(spec: ListSpec, shape: Shape) -> dict[str, str]:
    """The parts of a page's statement that depend on its shape."""
    sort = spec.sorts[shape.sort_by]
    limit, offset = _limit_and_offset(shape)
    items, joins = joined(spec.items)
    return {
        "table": spec.table,
        "where": _filters(spec, shape.filters),
        "where_in_order": _filters(spec, _filters_in_order(spec, shape)),
        "after": _after(sort, descending=shape.descending) if shape.by_cursor else "true",
        "order": _order(sort, descending=shape.descending),
        "item": item_sql(items, with_contacts=spec.with_contacts and shape.include_contacts),
        "joins": joins,
        "keys": ", ".join(f"t.{column}::text" for column, _ in sort.keys),
        "limit": limit,
        "offset": offset,
        "stats": _stats_sql(spec) if shape.include_stats else "NULL",
    }


def _limit_and_offset(shape: Shape) -> tuple[str, str]:
    """SQL for both: numbers for a list, so that it is planned once, parameters for a search.

    With parameters, PostgreSQL takes a tenth of the table for the page, finds the plan for all
    values too dear, and plans every execution. The plan of a search depends on its text.
    """
    if shape.finder is not Finder.NONE:
        return "%(limit)s::bigint", "%(offset)s::bigint"
    return str(shape.page_size), "%(offset)s::bigint" if shape.has_offset else "0"


def selection(spec: ListSpec, query: ListQuery) -> tuple[str, str, dict[str, Any]]:
    """SQL for all rows `t` of a list, for their order, and the parameters of both."""
    order = _order(spec.sorts[query.sort_by], descending=query.descending)
    rows = ALL_ROWS.format(table=spec.table, where=_where(spec, query))
    return rows, order, _parameters(spec, query)


def _total_sql(spec: ListSpec, shape: Shape) -> str:
    where = _filters(spec, shape.filters)
    if spec.totals_table and not shape.filters:
        return WHOLE_COUNT.format(totals_table=spec.totals_table)
    if _is_counted(spec, shape):
        return COUNT_FROM_COUNTERS.format(counts_table=spec.counts_table, where=where)
    return COUNT_ROWS.format(table=spec.table, where=where)


def _stats_sql(spec: ListSpec) -> str:
    pairs = ", ".join(f"'{name}', ({value})" for name, value in spec.stats.items())
    return f"SELECT json_build_object({pairs})::text"


def _where(spec: ListSpec, query: ListQuery) -> str:
    """The condition of all rows that the query finds."""
    filters = _filters(spec, query.filters)
    if not query.search:
        return filters
    call = _finder_call(spec, "%(workspace)s")
    by_index = _finder(query.search) is Finder.INDEX
    return f"{filters} AND {f't.id IN (SELECT {call})' if by_index else spec.search_inline}"


def _is_counted(spec: ListSpec, shape: Shape) -> bool:
    return set(shape.filters) <= spec.counted


def _filters_in_order(spec: ListSpec, shape: Shape) -> set[str]:
    """The filters whose rows an index has in the order of the page: at most one by creation."""
    sort = spec.sorts[shape.sort_by]
    if sort.columns == (CREATED_AT,):
        names = [name for name in spec.filters if name in shape.filters]
        return set([name for name in names if name not in spec.scattered][-1:])
    return {name for name in shape.filters if spec.filters[name] in sort.columns}


def _filters(spec: ListSpec, names: Iterable[str]) -> str:
    conditions = [spec.base]
    for name in names:
        column, type_ = spec.filters[name]
        conditions.append(f"t.{column} = %({name})s::{type_}")
    return " AND ".join(conditions)


def _rows_by_index(spec: ListSpec, shape: Shape) -> str:
    """The rows `t` that match the search, by the index unless it finds all of them."""
    if shape.finder is Finder.INLINE:
        return f"(SELECT t.* FROM {spec.table} AS t WHERE {spec.search_inline}) AS t"
    call = _finder_call(spec, "entered.workspace")
    return f"(SELECT {call} AS id) AS matching JOIN {spec.table} AS t ON t.id = matching.id"


def _finder_call(spec: ListSpec, workspace: str) -> str:
    """A call of the SQL function that finds ids by the index."""
    return f"{spec.search}({workspace}, %(pattern)s)"


def _order(sort: Sort, *, descending: bool) -> str:
    direction = "DESC" if descending else "ASC"
    return ", ".join(f"t.{column} {direction}" for column, _ in sort.keys)


def _after(sort: Sort, *, descending: bool) -> str:
    columns = ", ".join(f"t.{column}" for column, _ in sort.keys)
    values = ", ".join(f"%(key{n})s::{type_}" for n, (_, type_) in enumerate(sort.keys))
    return f"({columns}) {'<' if descending else '>'} ({values})"


def _parameters(spec: ListSpec, query: ListQuery) -> dict[str, Any]:
    text = folded(query.search or "")
    parameters: dict[str, Any] = dict.fromkeys(spec.filters)
    parameters.update(query.filters)
    parameters.update(
        workspace=query.workspace_id,
        limit=query.page_size,
        offset=_offset(query),
        pattern=_pattern(joinable(text) if spec.joins_texts else text),
    )
    if query.cursor:
        keys = _decode_cursor(query, len(spec.sorts[query.sort_by].keys))
        parameters.update({f"key{n}": value for n, value in enumerate(keys)})
    return parameters


def _offset(query: ListQuery) -> int:
    return 0 if query.cursor else (query.page - 1) * query.page_size


def _pattern(text: str) -> str:
    """The pattern for LIKE that finds what contains the text."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _order_name(query: ListQuery) -> str:
    return f"{query.sort_by}:{'desc' if query.descending else 'asc'}"


def _encode_cursor(query: ListQuery, keys: bytes) -> str:
    return encode_cursor(orjson.dumps([_order_name(query), *orjson.loads(keys)]))


def _decode_cursor(query: ListQuery, length: int) -> list[str]:
    content = decode_cursor(query.cursor or "")
    if content[:1] != [_order_name(query)] or len(content) != 1 + length:
        raise InvalidCursor
    keys = content[1:]
    if not all(isinstance(key, str) and "\0" not in key for key in keys):
        raise InvalidCursor
    return keys
