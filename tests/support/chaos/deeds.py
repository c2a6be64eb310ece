"""What clients do, made from a seed: the same client does the same, as far as it is let.

A deed says whom it concerns by a number, taken modulo those that the client knows when it comes to
it. So the list of deeds is given by the seed, whatever is down at the time.
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
from tests.support.chaos.history import Asked, Command

KNOWN_MAX = 150
"""Of so many things a client remembers that they are there."""
COMMONS_SHARE = 0.5
"""How often a client turns to what all clients know, and so meets the others."""
VERSION_SHARE = 0.3
"""How often it says which version it means."""
STALE_SHARE = 0.1
"""And how often that is not the last one that it knows."""

COMMANDS: dict[Command, int] = {
    "create": 7, "revise": 6, "status": 3, "delete": 2, "restore": 3, "read": 4,
}  # fmt: skip
OF_KIND: dict[type[Entity], int] = {
    Account: 6, Contact: 4, Task: 4, Note: 2, Meeting: 3, Opportunity: 3, Member: 2,
    ApiKey: 1, Workspace: 1,
}  # fmt: skip
NAME_OF = {"account": "company", "meeting": "title", "note": "body", "task": "title"}
"""The field that holds a text of its own; of the others it is `name`."""
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
class Deed:
    """One thing to do; numbers are taken modulo what there is."""

    command: Command
    kind: type[Entity]
    whom: int
    account: int
    member: int | None
    status: int
    is_common: bool
    says_version: bool
    is_stale: bool


@dataclass
class Thing:
    """Something that a client knows of."""

    kind: str
    id: str
    version: int
    account: str | None = None


@dataclass
class Known:
    """What a client knows: what all know, and what it made itself."""

    commons: list[Thing]
    own: list[Thing] = field(default_factory=list)

    def add(self, thing: Thing) -> None:
        """It made one; the oldest is forgotten when there are too many."""
        self.own.append(thing)
        del self.own[:-KNOWN_MAX]

    def find(self, kind: type[Entity], number: int, *, is_common: bool) -> Thing | None:
        """One of the kind; None where it knows none."""
        pools = (self.commons, self.own) if is_common else (self.own, self.commons)
        for pool in pools:
            found = [thing for thing in pool if thing.kind == kind.KIND]
            if found:
                return found[number % len(found)]
        return None

    def see(self, stream: str, version: int) -> None:
        """It was told of a version."""
        for thing in (*self.commons, *self.own):
            if thing.id == stream:
                thing.version = version


@dataclass(frozen=True)
class Request:
    """A deed that has found whom it concerns."""

    asked: Asked
    kind: type[Entity]
    fields: dict[str, Any]
    account: str | None


def deed(seed: int, client: str, number: int, *, by_http: bool) -> Deed:
    """What this client does at its turn."""
    random = Random(f"{seed}/{client}/{number}")
    command = random.choices([*COMMANDS], [*COMMANDS.values()])[0]
    kinds = [kind for kind in OF_KIND if not by_http or kind in BUSY_HTTP]
    if command == "status":
        kinds = [*STATUSES]
    elif command == "read":
        kinds = [*READ]
    return Deed(
        command=command,
        kind=random.choices(kinds, [OF_KIND[kind] for kind in kinds])[0],
        whom=random.randrange(KNOWN_MAX),
        account=random.randrange(KNOWN_MAX),
        member=random.choice([None, random.randrange(KNOWN_MAX)]),
        status=random.randrange(KNOWN_MAX),
        is_common=random.random() < COMMONS_SHARE,
        says_version=random.random() < VERSION_SHARE,
        is_stale=random.random() < STALE_SHARE,
    )


def request(deed: Deed, op: str, known: Known, *, new_id: UUID | None, position: int) -> Request:
    """The deed, on somebody whom the client knows; where it knows none, it makes one.

    `new_id` is that of a new one, None where the server chooses it; `position` is the last of
    which the client knows.
    """
    thing = known.find(deed.kind, deed.whom, is_common=deed.is_common)
    if deed.command == "create" or thing is None:
        return _creation(deed, op, known, new_id)
    expected = max(1, thing.version - deed.is_stale) if deed.says_version else None
    fields: dict[str, Any] = {}
    value: str | None = None
    if deed.command == "revise":
        value = op
        fields = {name_field(deed.kind): op, **_assigned(deed, known)}
    elif deed.command == "status":
        statuses = STATUSES[deed.kind]
        value = statuses[deed.status % len(statuses)]
        fields = {str(deed.kind.STATUS_FIELD): value}
    is_read = deed.command == "read"
    asked = Asked(
        op,
        deed.command,
        thing.kind,
        thing.id,
        value,
        None if is_read else expected,
        position if is_read else 0,
    )
    return Request(asked, deed.kind, fields, None)


def name_field(kind: type[Entity]) -> str:
    """The field by which one of the kind is called."""
    return NAME_OF.get(kind.KIND, "name")


def kind_of(thing: Thing) -> type[Entity]:
    """Its aggregate."""
    return KINDS[thing.kind]


def _creation(deed: Deed, op: str, known: Known, new_id: UUID | None) -> Request:
    kind = deed.kind
    fields: dict[str, Any] = {name_field(kind): op, **_assigned(deed, known)}
    if kind is Account:
        fields["type"] = ("investor", "customer", "partner")[deed.status % 3]
    if kind is ApiKey:
        fields |= {"role": "member", "secretSha256": SECRET}
    if kind in STATUSES:
        fields[str(kind.STATUS_FIELD)] = STATUSES[kind][deed.status % len(STATUSES[kind])]
    if kind is Opportunity:
        fields["value"] = f"{deed.account}.50"
    account = None
    if kind.BELONGS_TO_ACCOUNT:
        found = known.find(Account, deed.account, is_common=deed.is_common)
        account = found.id if found and (kind.ACCOUNT_REQUIRED or deed.member is None) else None
    asked = Asked(op, "create", kind.KIND, None if new_id is None else str(new_id), op)
    return Request(asked, kind, fields, account)


def _assigned(deed: Deed, known: Known) -> dict[str, Any]:
    if deed.member is None or deed.kind in (Workspace, Member, ApiKey):
        return {}
    member = known.find(Member, deed.member, is_common=deed.is_common)
    return {"assignedTo": member.id} if member else {}
