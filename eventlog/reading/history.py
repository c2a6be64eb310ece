"""SQL over the events of an entity or a workspace, for readers that choose the columns.

In each statement the reader's columns are SQL over a row `e` of the log.
"""

from __future__ import annotations

from eventlog.reading.actions import KIND
from eventlog.reading.merging import MERGED
from eventlog.reading.recorded import COLUMNS_OF_E

ENTITY_PAGE = """
WITH page AS (
    SELECT e.* FROM events AS e
     WHERE e.workspace_id = %(workspace)s AND e.stream_id = %(stream)s
       AND e.stream_version > %(after)s AND e.topic LIKE %(topics)s
     ORDER BY e.stream_version LIMIT %(limit)s + 1
)"""
"""The events of an entity after a version, one more than the limit, as `page`."""
MERGED_ENTITY_PAGE = f"""
WITH RECURSIVE {MERGED}, page AS (
    SELECT e.* FROM events AS e
     WHERE e.workspace_id = %(workspace)s AND e.stream_id IN (SELECT id FROM merged)
       AND e.position > %(after)s AND e.topic LIKE %(topics)s
     ORDER BY e.position LIMIT %(limit)s + 1
)"""
"""The same for an entity and all that are merged into it now, after a position."""

MEMBER_PAGE = """
WITH page AS (
    SELECT e.* FROM events AS e
     WHERE e.workspace_id = %(workspace)s AND e.position > %(after)s
       AND (e.stream_id = %(stream)s AND e.topic LIKE %(topics)s
            OR e.topic LIKE 'api_key.%%' AND e.stream_id = ANY (ARRAY(
                SELECT k.stream_id FROM events AS k
                 WHERE k.topic = 'api_key.issued' AND k.workspace_id = %(workspace)s
                   AND k.data->'fields'->>'memberId' = %(stream)s::text)))
     ORDER BY e.position LIMIT %(limit)s + 1
)"""
"""The events of a member and of the keys that were issued for that member, after a position."""

OCCURRED = f"""
SELECT {COLUMNS_OF_E} FROM events AS e
 WHERE e.workspace_id = %(workspace)s AND {KIND} = ANY(%(types)s)
   AND (e.occurred_at <= %(at)s OR {KIND} = ANY(%(names)s))
 ORDER BY e.position LIMIT %(limit)s
"""
"""The events of some kinds of entity until a time, those of the kinds `names` of any time."""


def select_news(columns: str) -> str:
    """Select the events of the workspaces `followed` among the next `most` events after `known`.

    The first column is the position up to which the log was read. The last row has no event. Each
    statement must see the newest events, so it runs outside a transaction.
    """
    return f"""
SELECT n.upto, {columns}
  FROM news_of(%(followed)s::uuid[], %(known)s::bigint, %(most)s) AS n,
       LATERAL (SELECT (n.event).*) AS e
 ORDER BY e.position NULLS LAST
"""


def select_in_workspace(columns: str) -> str:
    """Select the next events of a workspace after one position and up to another, filtered.

    A filter that is null lets every event pass. `account` selects the account and its children.
    """
    return f"""
SELECT {columns}
  FROM events AS e
 WHERE e.workspace_id = %(workspace)s AND e.position > %(after)s AND e.position <= %(upto)s
   AND (%(kinds)s::text[] IS NULL OR split_part(e.topic, '.', 1) = ANY (%(kinds)s))
   AND (%(topics)s::text[] IS NULL OR e.topic = ANY (%(topics)s))
   AND (%(entity)s::uuid IS NULL OR e.stream_id = %(entity)s)
   AND (%(account)s::uuid IS NULL OR e.account_id = %(account)s OR e.stream_id = %(account)s)
 ORDER BY e.position LIMIT %(limit)s
"""
