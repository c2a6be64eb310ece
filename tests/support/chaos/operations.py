"""The operations of clients, drawn from a seed: a client has the same ones in every run.

An operation names its entity by a number, taken modulo the entities that the client knows at that
time. So the list of operations depends on the seed alone, whichever process is down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

from domain.account import Account, AccountStatus
from domain.api_key import ApiKey
from domain.contact import Contact
from domain.meeting import Meeting, MeetingStatus
from domain.member import Member
from domain.note import Note
from domain.opportunity import Opportunity, Stage
from domain.shared.entity import Entity
from domain.shared.kinds import KINDS
from domain.task import Task, TaskStatus
from domain.workspace import Workspace
from tests.support.chaos.journal import Command, SentCommand

KNOWN_MAX = 150
"""Maximum number of entities that a client remembers."""
SHARED_SHARE = 0.5
"""Probability of an operation on an entity that all clients know."""
VERSION_SHARE = 0.3
"""Probability that an operation names an expected version."""
STALE_SHARE = 0.1
"""Probability that this version is not the last one that the client knows."""

COMMANDS: dict[Command, int] = {
    "create": 7, "revise": 6, "status": 3, "delete": 2, "restore": 3, "read": 4,
}  # fmt: skip
OF_KIND: dict[type[Entity], int] = {
    Account: 6, Contact: 4, Task: 4, Note: 2, Meeting: 3, Opportunity: 3, Member: 2,
    ApiKey: 1, Workspace: 1,
}  # fmt: skip
NAME_OF = {"account": "company", "meeting": "title", "note": "body", "task": "title"}
"""The field that holds the entity's name, for kinds in which it is not `name`."""
STATUSES: dict[type[Entity], list[str]] = {
    Account: [*AccountStatus],
    Task: [*TaskStatus],
    Meeting: [*MeetingStatus],
    Opportunity: [*Stage],
}
READ: tuple[type[Entity], ...] = (Account, Contact, Task, Opportunity)
BUSY_HTTP = (Account, Contact, Task, Note, Meeting, Opportunity, Member)
"""The kinds that have all routes."""
SECRET = "0" * 64


@dataclass(frozen=True)
class Operation:
    """One operation; numbers are taken modulo the entities that are known."""

    command: Command
    kind: type[Entity]
    entity_number: int
    account: int
    member: int | None
    status: int
    is_shared: bool
    has_version: bool
    is_stale: bool


@dataclass
class KnownEntity:
    """An entity that a client knows."""

    kind: str
    id: str
    version: int
    account: str | None = None


@dataclass
class KnownEntities:
    """The entities that all clients know (`shared`) and those that this client created."""

    shared: list[KnownEntity]
    own: list[KnownEntity] = field(default_factory=list)

    def add(self, entity: KnownEntity) -> None:
        """Add an entity; the oldest is dropped beyond KNOWN_MAX."""
        self.own.append(entity)
        del self.own[:-KNOWN_MAX]

    def find(self, kind: type[Entity], number: int, *, is_shared: bool) -> KnownEntity | None:
        """Return an entity of the kind; None if the client knows none."""
        pools = (self.shared, self.own) if is_shared else (self.own, self.shared)
        for pool in pools:
            found = [entity for entity in pool if entity.kind == kind.KIND]
            if found:
                return found[number % len(found)]
        return None

    def see(self, stream: str, version: int) -> None:
        """Note the version that an answer reported."""
        for entity in (*self.shared, *self.own):
            if entity.id == stream:
                entity.version = version


@dataclass(frozen=True)
class Request:
    """An operation with its entity."""

    sent: SentCommand
    kind: type[Entity]
    fields: dict[str, Any]
    account: str | None


def draw_operation(seed: int, client: str, number: int, *, by_http: bool) -> Operation:
    """Draw the operation of this number."""
    random = Random(f"{seed}/{client}/{number}")
    command = random.choices([*COMMANDS], [*COMMANDS.values()])[0]
    kinds = [kind for kind in OF_KIND if not by_http or kind in BUSY_HTTP]
    if command == "status":
        kinds = [*STATUSES]
    elif command == "read":
        kinds = [*READ]
    return Operation(
        command=command,
        kind=random.choices(kinds, [OF_KIND[kind] for kind in kinds])[0],
        entity_number=random.randrange(KNOWN_MAX),
        account=random.randrange(KNOWN_MAX),
        member=random.choice([None, random.randrange(KNOWN_MAX)]),
        status=random.randrange(KNOWN_MAX),
        is_shared=random.random() < SHARED_SHARE,
        has_version=random.random() < VERSION_SHARE,
        is_stale=random.random() < STALE_SHARE,
    )


def resolve_request(
    operation: Operation, op: str, known: KnownEntities, *, new_id: UUID | None, position: int
) -> Request:
    """Choose the operation's entity; create one if the client knows none of the kind.

    new_id: the id of a new entity; None if the server chooses it.
    position: the last position that the client knows.
    """
    entity = known.find(operation.kind, operation.entity_number, is_shared=operation.is_shared)
    if operation.command == "create" or entity is None:
        return _creation(operation, op, known, new_id)
    expected = max(1, entity.version - operation.is_stale) if operation.has_version else None
    fields: dict[str, Any] = {}
    value: str | None = None
    if operation.command == "revise":
        value = op
        fields = {name_field(operation.kind): op, **_assigned(operation, known)}
    elif operation.command == "status":
        statuses = STATUSES[operation.kind]
        value = statuses[operation.status % len(statuses)]
        fields = {str(operation.kind.STATUS_FIELD): value}
    is_read = operation.command == "read"
    sent = SentCommand(
        op,
        operation.command,
        entity.kind,
        entity.id,
        value,
        None if is_read else expected,
        position if is_read else 0,
    )
    return Request(sent, operation.kind, fields, None)


def name_field(kind: type[Entity]) -> str:
    """Return the field that holds the name of an entity of this kind."""
    return NAME_OF.get(kind.KIND, "name")


def kind_of(entity: KnownEntity) -> type[Entity]:
    """Return the entity's aggregate class."""
    return KINDS[entity.kind]


def _creation(operation: Operation, op: str, known: KnownEntities, new_id: UUID | None) -> Request:
    kind = operation.kind
    fields: dict[str, Any] = {name_field(kind): op, **_assigned(operation, known)}
    if kind is Account:
        fields["type"] = ("investor", "customer", "partner")[operation.status % 3]
    if kind is ApiKey:
        fields |= {"role": "member", "secretSha256": SECRET}
    if kind in STATUSES:
        fields[str(kind.STATUS_FIELD)] = STATUSES[kind][operation.status % len(STATUSES[kind])]
    if kind is Opportunity:
        fields["value"] = f"{operation.account}.50"
    account = None
    if kind.BELONGS_TO_ACCOUNT:
        found = known.find(Account, operation.account, is_shared=operation.is_shared)
        account = (
            found.id if found and (kind.ACCOUNT_REQUIRED or operation.member is None) else None
        )
    sent = SentCommand(op, "create", kind.KIND, None if new_id is None else str(new_id), op)
    return Request(sent, kind, fields, account)


def _assigned(operation: Operation, known: KnownEntities) -> dict[str, Any]:
    if operation.member is None or operation.kind in (Workspace, Member, ApiKey):
        return {}
    member = known.find(Member, operation.member, is_shared=operation.is_shared)
    return {"assignedTo": member.id} if member else {}
