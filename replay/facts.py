"""Events as facts: what followers over HTTP hear, as the audit trail shows it.

Two readings that meet: `news` from where a reader of the log stands, for some workspaces at once,
and `history` of one workspace in pages. Both in order of position, nothing stepped over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from eventlog.connections import AsyncConnection
from eventlog.reading.audit import entry_columns, json_object
from eventlog.reading.history import select_in_workspace, select_news
from replay.history import ACTION_SQL, ACTIONS_JSON

HISTORY_PAGE = 200
"""Most facts that are read at once for one follower."""
HISTORY_SPAN = 50_000
"""Positions that one statement looks through, so that it stays short in a large log."""

BODY = json_object(
    entry_columns(
        (
            *("position", "type", "kind", "entityId", "accountId", "version", "action", "actor"),
            *("occurredAt", "recordedAt", "ip", "userAgent", "requestId", "command", "commandId"),
            *("undoes", "undoesPosition", "correlationId", "causationId", "changes", "details"),
        ),
        action=ACTION_SQL,
    )
)
FACT = f"""
e.position, e.workspace_id, e.stream_id, e.topic, e.account_id,
CASE WHEN e.position IS NOT NULL THEN {BODY}::text END
"""

NEWS = select_news(FACT)
HISTORY = select_in_workspace(FACT)


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
    connection: AsyncConnection, followed: Sequence[UUID], known: int, most: int
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


async def history(connection: AsyncConnection, wanted: Wanted, after: int, upto: int) -> FactPage:
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


def to_fact(row: tuple[Any, ...]) -> Fact:
    """A row of the columns of FACT."""
    position, workspace_id, entity_id, topic, account_id, body = row
    return Fact(position, workspace_id, entity_id, topic, account_id, body.encode())


def _list(values: Iterable[str] | None) -> list[str] | None:
    return None if values is None else sorted(values)
