"""Events as facts: what followers over HTTP hear, as the audit trail shows it.

Two readings that meet: `news` from where a reader of the log stands, for some workspaces at once,
and `history` of one workspace in pages. Both in order of position, nothing stepped over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from eventlog.changes_sql import CHANGES, DETAILS
from replay.history import ACTION_SQL, ACTIONS_JSON

HISTORY_PAGE = 200
"""Most facts that are read at once for one follower."""
HISTORY_SPAN = 50_000
"""Positions that one statement looks through, so that it stays short in a large log."""

FACT = f"""
e.position, e.workspace_id, e.stream_id, e.topic, e.account_id,
CASE WHEN e.position IS NOT NULL THEN json_build_object(
    'position', e.position, 'type', e.topic, 'kind', split_part(e.topic, '.', 1),
    'entityId', e.stream_id, 'accountId', e.account_id, 'version', e.stream_version,
    'action', {ACTION_SQL},
    'actor', e.metadata->'actor',
    'occurredAt', e.occurred_at, 'recordedAt', e.recorded_at,
    'ip', e.metadata->>'ip', 'userAgent', e.metadata->>'userAgent',
    'requestId', e.metadata->>'requestId', 'command', e.metadata->>'command',
    'commandId', e.metadata->>'commandId', 'undoes', e.metadata->>'undoes',
    'undoesPosition', (e.metadata->>'undoesPosition')::bigint,
    'correlationId', e.metadata->>'correlationId', 'causationId', e.metadata->>'causationId',
    'changes', {CHANGES}, 'details', {DETAILS})::text END
"""

NEWS = f"""
SELECT n.upto, {FACT}
  FROM news_of(%(followed)s::uuid[], %(known)s::bigint, %(most)s) AS n,
       LATERAL (SELECT (n.event).*) AS e
 ORDER BY e.position NULLS LAST
"""

HISTORY = f"""
SELECT {FACT}
  FROM events AS e
 WHERE e.workspace_id = %(workspace)s AND e.position > %(after)s AND e.position <= %(upto)s
   AND (%(kinds)s::text[] IS NULL OR split_part(e.topic, '.', 1) = ANY (%(kinds)s))
   AND (%(topics)s::text[] IS NULL OR e.topic = ANY (%(topics)s))
   AND (%(entity)s::uuid IS NULL OR e.stream_id = %(entity)s)
   AND (%(account)s::uuid IS NULL OR e.account_id = %(account)s OR e.stream_id = %(account)s)
 ORDER BY e.position LIMIT %(limit)s
"""

LAST = "SELECT last_event_position()"
TAKEN = "SELECT coalesce(pg_sequence_last_value('public.events_position_seq'), 0)"


@dataclass(slots=True, eq=False)
class Fact:
    """One event, told once to all who hear of it."""

    position: int
    workspace_id: UUID
    entity_id: UUID
    topic: str
    account_id: UUID | None
    body: bytes
    """All of it as JSON."""
    kind: str = ""
    frames: dict[Any, bytes] = field(default_factory=dict)
    """For who tells it: what was made of it already."""

    def __post_init__(self) -> None:
        self.kind = self.topic.partition(".")[0]


@dataclass(frozen=True)
class Wanted:
    """Which facts of a workspace are meant; None where all of them are."""

    workspace_id: UUID
    kinds: frozenset[str] | None = None
    topics: frozenset[str] | None = None
    entity_id: UUID | None = None
    account_id: UUID | None = None
    """The account itself and what hangs on it."""

    def matches(self, fact: Fact) -> bool:
        """Whether the fact, one of this workspace, is meant."""
        return (
            (self.kinds is None or fact.kind in self.kinds)
            and (self.topics is None or fact.topic in self.topics)
            and (self.entity_id is None or fact.entity_id == self.entity_id)
            and (self.account_id is None or self.account_id in (fact.account_id, fact.entity_id))
        )


@dataclass(frozen=True)
class FactPage:
    """Some facts in order, and the position up to which the log was read by them."""

    facts: list[Fact]
    upto: int


async def news(
    connection: AsyncConnection[TupleRow], followed: Sequence[UUID], known: int, most: int
) -> FactPage:
    """The facts of these workspaces among the next events, of which `most` are looked at.

    `upto` is the position of an event, and so durable; where it is `known`, there was nothing.
    Outside a transaction: each statement has to see what is newest.
    """
    parameters = {
        "followed": list(followed),
        "known": known,
        "most": most,
        "actions": ACTIONS_JSON,
    }
    rows = await (await connection.execute(NEWS, parameters, prepare=True)).fetchall()
    return FactPage([to_fact(row[1:]) for row in rows[:-1]], rows[-1][0])


async def history(
    connection: AsyncConnection[TupleRow], wanted: Wanted, after: int, upto: int
) -> FactPage:
    """The next facts that are wanted, after one position and up to another.

    At most `HISTORY_PAGE` of them, out of at most `HISTORY_SPAN` positions. `upto` must be a
    position that a reader of the log has reached.
    """
    upto = min(upto, after + HISTORY_SPAN)
    parameters = {
        "workspace": wanted.workspace_id,
        "kinds": _list(wanted.kinds),
        "topics": _list(wanted.topics),
        "entity": wanted.entity_id,
        "account": wanted.account_id,
        "after": after,
        "upto": upto,
        "limit": HISTORY_PAGE,
        "actions": ACTIONS_JSON,
    }
    rows = await (await connection.execute(HISTORY, parameters)).fetchall()
    facts = [to_fact(row) for row in rows]
    return FactPage(facts, facts[-1].position if len(facts) == HISTORY_PAGE else upto)


async def last_position(connection: AsyncConnection[TupleRow]) -> int:
    """The position of the last event that can be read, in whichever workspace."""
    return await _number(connection, LAST)


async def taken_position(connection: AsyncConnection[TupleRow]) -> int:
    """The last position that was given out; events below may still be on their way."""
    return await _number(connection, TAKEN)


def to_fact(row: tuple[Any, ...]) -> Fact:
    """A row of the columns of FACT."""
    position, workspace_id, entity_id, topic, account_id, body = row
    return Fact(position, workspace_id, entity_id, topic, account_id, body.encode())


async def _number(connection: AsyncConnection[TupleRow], statement: str) -> int:
    row = await (await connection.execute(statement.encode())).fetchone()
    assert row is not None
    return int(row[0])


def _list(values: Iterable[str] | None) -> list[str] | None:
    return None if values is None else sorted(values)
