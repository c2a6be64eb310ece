"""Links between the pages of a list, in the header Link (RFC 8288)."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote_plus, urlencode

from starlette.types import Scope

LINK_MAX_CHARS = 4_096
"""A longer URL is left out: heads of responses are limited, too."""
NEXT_CURSOR = re.compile(rb'"nextCursor"\s*:\s*(?:"([^"\\]+)"|([0-9]+))\s*\}\s*$')
TAIL_BYTES = 1_024


def next_page_link(scope: Scope, body: bytes) -> str | None:
    """The link to the next page, for a list whose body ends with its `nextCursor`."""
    found = NEXT_CURSOR.search(body[-TAIL_BYTES:])
    if found is None:
        return None
    cursor = (found[1] or found[2]).decode()
    return links(scope, {"next": {"cursor": cursor}})


def page_links(
    scope: Scope,
    *,
    page: int,
    total_pages: int,
    total_is_exact: bool,
    next_cursor: str | None,
    by_cursor: bool,
) -> str | None:
    """The links of a list that is paged by number and by cursor."""
    found: dict[str, dict[str, str]] = {"first": {}}
    if by_cursor:
        if next_cursor:
            found["next"] = {"cursor": next_cursor}
        return links(scope, found)
    if page > 1:
        found["prev"] = {"page": str(page - 1)}
    if page < total_pages:
        found["next"] = {"page": str(page + 1)}
    elif next_cursor and not total_is_exact:
        found["next"] = {"cursor": next_cursor}
    if total_pages and total_is_exact:
        found["last"] = {"page": str(total_pages)}
    return links(scope, found)


def links(scope: Scope, changes: dict[str, dict[str, str]]) -> str | None:
    """URLs of this request with other pages, by relation. None if they are too long."""
    kept = _without_page(scope["query_string"]) if scope["query_string"] else ""
    path = scope.get("raw_path", scope["path"].encode()).decode("latin-1").partition("?")[0]
    found = []
    for relation, change in changes.items():
        changed = [f"{name}={quote_plus(value)}" for name, value in change.items()]
        query = "&".join([kept, *changed] if kept else changed)
        found.append(f'<{path}{"?" if query else ""}{query}>; rel="{relation}"')
    value = ", ".join(found)
    return value if len(value) <= LINK_MAX_CHARS else None


def _without_page(query: bytes) -> str:
    given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return urlencode([each for each in given if each[0] not in ("cursor", "page")])
