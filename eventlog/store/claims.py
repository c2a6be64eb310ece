"""Claimed times, written in the transaction of the events that they follow from.

An entity computes its claim (`Entity.claim`). The database compares it with the claims of others,
under a lock on the time of the member. The table `claimed_times` can be rebuilt from the log.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

import orjson

from domain.shared.claims import TimeClaim
from domain.shared.refusals import TakenTime, TimeTaken
from eventlog.connections import Connection

CLAIM = """
SELECT entity_id, taken_by, taken_from, taken_until FROM claim_times(%s::uuid, %s::json)
"""
SELECT_CLAIMANTS = """
SELECT stream_id, topic FROM events
 WHERE workspace_id = %s AND stream_version = 1 AND topic = ANY(%s) ORDER BY position
"""
# Waits for transactions that have claimed time and have not ended.
LOCK_CLAIMS = "LOCK TABLE claimed_times IN EXCLUSIVE MODE"
DELETE_CLAIMS = """
DELETE FROM claimed_times AS t
 USING json_to_recordset(%(batch)s::json) AS c(entity uuid, holder uuid)
 WHERE t.workspace_id = %(workspace)s AND t.entity_id = c.entity AND c.holder IS NULL
RETURNING t.entity_id
"""
UPSERT_CLAIMS = """
INSERT INTO claimed_times AS t (workspace_id, entity_id, holder_id, starts_at, ends_at, may_overlap)
SELECT %(workspace)s, c.entity, c.holder, c.starts, c.ends, c.may_overlap
  FROM json_to_recordset(%(batch)s::json)
    AS c(entity uuid, holder uuid, starts timestamptz, ends timestamptz, may_overlap boolean)
 WHERE c.holder IS NOT NULL
    ON CONFLICT (workspace_id, entity_id) DO UPDATE
   SET holder_id = excluded.holder_id, starts_at = excluded.starts_at,
       ends_at = excluded.ends_at, may_overlap = excluded.may_overlap
 WHERE (t.holder_id, t.starts_at, t.ends_at, t.may_overlap)
       <> (excluded.holder_id, excluded.starts_at, excluded.ends_at, excluded.may_overlap)
RETURNING t.entity_id
"""
TAKEN_SHOWN_MAX = 10
"""Maximum number of conflicting claims that a refusal names."""


def claim_times(
    connection: Connection, workspace_id: UUID, claims: Mapping[UUID, TimeClaim | None]
) -> None:
    """Replace the claims of these entities; None gives a claim up. Needs a transaction.

    Raises `TimeTaken`. The caller must then roll back the transaction or savepoint.
    """
    rows = connection.execute(CLAIM, (workspace_id, _batch(claims))).fetchall()
    if rows:
        first = rows[0][0]
        taken = [TakenTime(*row[1:]) for row in rows if row[0] == first]
        claim = claims[first]
        assert claim is not None
        raise TimeTaken(first, claim.holder_id, taken[:TAKEN_SHOWN_MAX])


def lock_claims(connection: Connection) -> None:
    """Keep other transactions from claiming time until this one ends."""
    connection.execute(LOCK_CLAIMS)


def overwrite_claims(
    connection: Connection, workspace_id: UUID, claims: Mapping[UUID, TimeClaim | None]
) -> list[UUID]:
    """Write these claims without a check for conflicts; return the entities whose claim changed."""
    parameters = {"workspace": workspace_id, "batch": _batch(claims)}
    return [
        row[0]
        for statement in (DELETE_CLAIMS, UPSERT_CLAIMS)
        for row in connection.execute(statement, parameters).fetchall()
    ]


def select_claimants(
    connection: Connection, workspace_id: UUID, topics: Collection[str]
) -> list[tuple[UUID, str]]:
    """Id and first topic of every entity, deleted or not, whose first topic is one of these."""
    rows = connection.execute(SELECT_CLAIMANTS, (workspace_id, list(topics))).fetchall()
    return [(row[0], row[1]) for row in rows]


def _batch(claims: Mapping[UUID, TimeClaim | None]) -> str:
    return orjson.dumps([_row(entity_id, claim) for entity_id, claim in claims.items()]).decode()


def _row(entity_id: UUID, claim: TimeClaim | None) -> dict[str, object]:
    if claim is None:
        return {"entity": entity_id, "holder": None}
    return {
        "entity": entity_id,
        "holder": claim.holder_id,
        "starts": claim.starts_at,
        "ends": claim.ends_at,
        "may_overlap": claim.may_overlap,
    }
