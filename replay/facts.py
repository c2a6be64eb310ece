"""Facts: events as realtime subscribers receive them, in the form of the audit trail.

`read_news` reads the newest events of several workspaces, `read_history` pages of one workspace.
Both read in order of position and step over no event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from eventlog.connections import AsyncConnection
from eventlog.libpq.listening import DirectQuery
from eventlog.reading.actions import ACTIONS_JSON
from eventlog.reading.audit import entry_columns, json_object
from eventlog.reading.history import select_in_workspace, select_news

HISTORY_PAGE = 200
"""Maximum number of facts in a page."""
HISTORY_SPAN = 50_000
"""Maximum number of positions that a statement scans, so that it is short in a large log."""

BODY = json_object(
    entry_columns(
        (
            *("position", "type", "kind", "entityId", "accountId", "version", "action", "actor"),
            *("keyId", "occurredAt", "recordedAt", "ip", "userAgent", "requestId", "command"),
            *("commandId", "undoes", "undoesPosition", "correlationId", "causationId"),
            *("changes", "details"),
        )
    )
)
FACT = f"""
e.position, e.workspace_id, e.stream_id, e.topic, e.account_id,
CASE WHEN e.position IS NOT NULL THEN {BODY}::text END
"""

NEWS = select_news(FACT) % {
    "followed": "$1",
    "known": "$2",
    "most": "$3::integer",
    "actions": f"'{ACTIONS_JSON}'",
}
HISTORY = select_in_workspace(FACT)


@dataclass(slots=True, eq=False)
class Fact:
    """An event, shared by all subscribers that receive it."""

    position: int
    workspace_id: UUID
    entity_id: UUID
    topic: str
    account_id: UUID | None
    body: bytes
    """The whole fact as JSON."""
    kind: str = ""
    frames: dict[Any, bytes] = field(default_factory=dict)
    """Messages made from the fact, cached by the transports under their own keys."""

    def __post_init__(self) -> None:
        self.kind = self.topic.partition(".")[0]


@dataclass(frozen=True)
class FactFilter:
    """The facts of a workspace that a subscriber wants. None stands for all values."""

    workspace_id: UUID
    kinds: frozenset[str] | None = None
    topics: frozenset[str] | None = None
    entity_id: UUID | None = None
    account_id: UUID | None = None
    """The account and the entities that belong to it."""

    def matches(self, fact: Fact) -> bool:
        """Whether the filter lets a fact of this workspace pass."""
        return (
            (self.kinds is None or fact.kind in self.kinds)
            and (self.topics is None or fact.topic in self.topics)
            and (self.entity_id is None or fact.entity_id == self.entity_id)
            and (self.account_id is None or self.account_id in (fact.account_id, fact.entity_id))
        )


@dataclass(frozen=True)
class FactPage:
    """Facts in order, and the position up to which the log was read to find them."""

    facts: list[Fact]
    upto: int


async def prepare_news(connection: AsyncConnection) -> DirectQuery:
    """Prepare the connection for `read_news`.

    It must not be in a transaction, because each statement must see the newest events.
    """
    return await DirectQuery.prepare(connection, NEWS)


async def read_news(
    query: DirectQuery, followed: Sequence[UUID], known: int, most: int
) -> FactPage:
    """Read the facts of these workspaces among the next `most` events after `known`.

    `upto` is the position of an event, and so durable; it is `known` if there was no event.
    """
    workspaces = "{" + ",".join(map(str, followed)) + "}"
    rows = await query.execute(workspaces, str(known), str(most))
    return FactPage([_fact_of_texts(row[1:]) for row in rows[:-1]], int(rows[-1][0]))


async def read_history(
    connection: AsyncConnection, wanted: FactFilter, after: int, upto: int
) -> FactPage:
    """Read the next facts that pass the filter, after one position and up to another.

    The page has at most `HISTORY_PAGE` facts from at most `HISTORY_SPAN` positions. `upto` must be
    readable already (`readable_position`).
    """
    upto = min(upto, after + HISTORY_SPAN)
    parameters = {
        "workspace": wanted.workspace_id,
        "kinds": _sorted_list(wanted.kinds),
        "topics": _sorted_list(wanted.topics),
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
    """Make a fact from a row with the columns of FACT."""
    position, workspace_id, entity_id, topic, account_id, body = row
    return Fact(position, workspace_id, entity_id, topic, account_id, body.encode())


def _fact_of_texts(row: Sequence[bytes]) -> Fact:
    """Make a fact from the columns of FACT as PostgreSQL writes them."""
    position, workspace_id, entity_id, topic, account_id, body = row
    return Fact(
        int(position),
        UUID(workspace_id.decode()),
        UUID(entity_id.decode()),
        topic.decode(),
        UUID(account_id.decode()) if account_id else None,
        body,
    )


def _sorted_list(values: Iterable[str] | None) -> list[str] | None:
    return None if values is None else sorted(values)
