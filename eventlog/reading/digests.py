"""Digests of the log, to compare it with what a reader consumed or a backup holds."""

from __future__ import annotations

from collections.abc import Collection

from eventlog.connections import Connection
from eventlog.digest import DIGEST_SQL

DESCRIBED = {
    "action_topic": "action_topic(topic, data, metadata)",
    "actor_id": "metadata #>> '{actor,id}'",
    "api_key_id": "metadata ->> 'keyId'",
    "command_id": "metadata ->> 'commandId'",
}
"""The columns by which readers find an event, and SQL for what a trigger has set them to."""
IS_DESCRIBED = f"""
({", ".join(DESCRIBED)}) IS NOT DISTINCT FROM ({", ".join(DESCRIBED.values())})"""

SELECT_BETWEEN = f"""
SELECT position, {DIGEST_SQL} FROM events
 WHERE position >= %s AND position <= %s ORDER BY position
"""
SELECT_AT = f"SELECT position, {DIGEST_SQL} FROM events WHERE position = ANY(%s)"


def range_sums(range_positions: int, condition: str = "true") -> str:
    """SQL for sums over each range of positions: `number`, `n`, `digest`, `weighted`.

    A range is position / range_positions. `n` counts its events, `digest` sums their digests, and
    `weighted` sums each digest times its place in the range, from 1. The digest of an event that
    its other columns do not describe is too high. The condition, on columns of `events`, selects
    the events.
    """
    return f"""
    SELECT position / {range_positions} AS number, count(*) AS n, sum(d) AS digest,
           sum(d * (mod(position, {range_positions}) + 1)::numeric) AS weighted
      FROM (SELECT position, {DIGEST_SQL} + CASE WHEN {IS_DESCRIBED} THEN 0 ELSE 1 END AS d
              FROM events WHERE {condition}) AS e
     GROUP BY 1"""


def digests_between(connection: Connection, first: int, last: int) -> dict[int, int]:
    """The digests of the events from one position to another, by position."""
    return dict(connection.execute(SELECT_BETWEEN, (first, last)).fetchall())


def digests_at(connection: Connection, positions: Collection[int]) -> dict[int, int]:
    """The digests of the events at these positions; a position without an event is left out."""
    return dict(connection.execute(SELECT_AT, (list(positions),)).fetchall())
