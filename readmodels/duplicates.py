"""Duplicates: groups of contacts or accounts that share a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from uuid import UUID

import orjson

from readmodels.cursors import InvalidCursor, decode_cursor, encode_cursor
from readmodels.lists import LISTS
from readmodels.pool import AsyncConnection
from readmodels.spec import item_sql

GROUPS_PAGE_DEFAULT = 20
GROUPS_PAGE_MAX = 100
MEMBERS_SHOWN_MAX = 20
"""Maximum number of members shown of a group, oldest first; the count includes all."""
KEY_MAX_CHARS = 1_000

REASONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"contacts": ("email", "phone"), "accounts": ("company",)}
)
"""The keys by which a kind is compared, in the order in which groups are shown."""

# The index holds only groups of more than one.
GROUPS = """
SELECT '{reason}' AS reason, {rank} AS rank, key, n FROM read.{reason}_counts
 WHERE workspace_id = %(workspace)s AND n > 1 AND key > %(after{rank})s::text
 ORDER BY key LIMIT %(limit)s + 1
"""
PAGE = """
WITH page AS MATERIALIZED (
    SELECT * FROM ({groups}) AS found ORDER BY rank, key LIMIT %(limit)s + 1
), numbered AS (
    SELECT p.*, row_number() OVER (ORDER BY rank, key) AS ordinal FROM page AS p
)
SELECT coalesce(json_agg(json_build_object(
           'reason', g.reason, 'key', g.key, 'count', g.n, 'members', {members})
           ORDER BY g.ordinal) FILTER (WHERE g.ordinal <= %(limit)s), '[]')::text,
       CASE WHEN count(*) > %(limit)s THEN
           (array_agg(json_build_array(g.reason, g.key)::text ORDER BY g.ordinal))[%(limit)s] END
  FROM numbered AS g
"""
MEMBERS = """
CASE g.reason {cases} END"""
MEMBERS_OF = """
WHEN '{reason}' THEN (
    SELECT coalesce(json_agg({item} ORDER BY t.id), '[]')
      FROM (SELECT d.id FROM read.{reason}_keys AS d
             WHERE d.workspace_id = %(workspace)s AND d.key = g.key
             ORDER BY d.id LIMIT {shown}) AS d
      JOIN read.{plural} AS t ON t.workspace_id = %(workspace)s AND t.id = d.id)"""


@dataclass(frozen=True)
class DuplicatesQuery:
    """A page of groups. The caller has validated kind and reason."""

    workspace_id: UUID
    kind: str
    reason: str | None = None
    cursor: str | None = None
    limit: int = GROUPS_PAGE_DEFAULT


async def duplicates_page(connection: AsyncConnection, query: DuplicatesQuery) -> bytes:
    """`{items, nextCursor}` as JSON. Raises `InvalidCursor`."""
    reasons = REASONS[query.kind]
    last, key = _decode(query.cursor) if query.cursor else (reasons[0], "")
    if last not in reasons:
        raise InvalidCursor
    ranked = {
        rank: reason
        for rank, reason in enumerate(reasons)
        if rank >= reasons.index(last) and query.reason in (None, reason)
    }
    if not ranked:
        return b'{"items":[],"nextCursor":null}'
    parameters: dict[str, Any] = {"workspace": query.workspace_id, "limit": query.limit}
    parameters |= {f"after{rank}": key if reason == last else "" for rank, reason in ranked.items()}
    row = await (await connection.execute(_sql(query.kind, ranked), parameters)).fetchone()
    assert row is not None
    cursor = orjson.dumps(encode_cursor(row[1].encode()) if row[1] else None)
    items: bytes = row[0].encode()
    return b'{"items":' + items + b',"nextCursor":' + cursor + b"}"


def _sql(plural: str, ranked: Mapping[int, str]) -> str:
    groups = [f"({GROUPS.format(reason=reason, rank=rank)})" for rank, reason in ranked.items()]
    item = item_sql(LISTS[plural].items, with_contacts=False)
    cases = [
        MEMBERS_OF.format(reason=reason, item=item, plural=plural, shown=MEMBERS_SHOWN_MAX)
        for reason in ranked.values()
    ]
    members = MEMBERS.format(cases="".join(cases))
    return PAGE.format(groups=" UNION ALL ".join(groups), members=members)


def _decode(cursor: str) -> tuple[str, str]:
    content = decode_cursor(cursor)
    if len(content) != 2 or not all(isinstance(each, str) for each in content):
        raise InvalidCursor
    reason, key = content
    if "\0" in key or len(key) > KEY_MAX_CHARS:
        raise InvalidCursor
    return reason, key
