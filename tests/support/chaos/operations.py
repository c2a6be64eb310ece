"""The operations of clients, drawn from a seed: a client has the same ones in every run.

An operation names its entities by numbers, taken modulo the entities that the client knows at that
time. So the list of operations depends on the seed alone, whichever process is down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from domain.account import Account, AccountStatus
from domain.api_key import ApiKey
from domain.appointment import Appointment
from domain.contact import Contact
from domain.lead import Lead, LeadStatus
from domain.meeting import Meeting, MeetingStatus
from domain.member import Member
from domain.note import Note
from domain.opportunity import Opportunity, Stage
from domain.proposal import Proposal
from domain.shared.entity import Entity
from domain.shared.kinds import KINDS
from domain.task import Task, TaskStatus
from domain.workspace import Workspace
from tests.support.chaos.journal import Command, SentCommand

KNOWN_MAX = 150
"""Maximum number of entities that a client remembers."""
COMMANDS_KNOWN_MAX = 20
"""Maximum number of own commands that a client may undo."""
SHARED_SHARE = 0.5
"""Probability of an operation on an entity that all clients know."""
VERSION_SHARE = 0.3
"""Probability that an operation names an expected version."""
STALE_SHARE = 0.1
"""Probability that this version is not the last one that the client knows."""
REPEAT_SHARE = 0.05
"""Probability that an answered request is sent once more under its idempotency key."""
REUSE_SHARE = 0.3
"""Probability that it is then sent with another body."""
JOB_SHARE = 0.3
"""Probability that a bulk change names so many entities that a job carries it out."""
JOB_IDS = 210
BULK_IDS_MAX = 8
IMPORT_ROWS_MAX = 40

DIRECT_COMMANDS: dict[Command, int] = {
    "create": 7, "revise": 6, "status": 3, "delete": 2, "restore": 3, "read": 4,
}  # fmt: skip
HTTP_COMMANDS: dict[Command, int] = {
    **DIRECT_COMMANDS,
    "step": 4, "convert": 1, "sms": 2, "merge": 1, "undo": 3, "bulk": 2, "import": 1, "intrude": 1,
}  # fmt: skip
OF_KIND: dict[type[Entity], int] = {
    Account: 6, Contact: 4, Task: 4, Note: 2, Meeting: 3, Opportunity: 3, Member: 2,
    Lead: 4, Appointment: 3, Proposal: 3, ApiKey: 1, Workspace: 1,
}  # fmt: skip
NAME_OF = {
    "account": "company",
    "note": "body",
    **dict.fromkeys(("meeting", "task", "appointment", "proposal"), "title"),
}
"""The field that holds the entity's name, for kinds in which it is not `name`."""
SECOND_OF = {
    "account": "nextAction",
    "lead": "nextAction",
    "note": "title",
    "task": "description",
    "meeting": "location",
    "appointment": "location",
    "proposal": "body",
    **dict.fromkeys(("contact", "member"), "title"),
}
"""A second field of a kind that holds text."""
STATUSES: dict[type[Entity], list[str]] = {
    Account: [*AccountStatus],
    Task: [*TaskStatus],
    Meeting: [*MeetingStatus],
    Opportunity: [*Stage],
    Lead: [*LeadStatus],
}
WITH_CHOSEN_STATUS = (Account, Task, Meeting, Opportunity)
"""The kinds that clients create in any status."""
STEPS: tuple[tuple[type[Entity], str, str, str], ...] = (
    (Appointment, "confirm", "confirmed", "confirmed"),
    (Appointment, "cancel", "cancelled", "cancelled"),
    (Appointment, "complete", "completed", "completed"),
    (Proposal, "send", "sent", "sent"),
    (Proposal, "accept", "accepted", "accepted"),
    (Proposal, "decline", "declined", "declined"),
)
"""Kind, name in the path, action that it records, and the status that it leads to."""
READ: tuple[type[Entity], ...] = (Account, Contact, Task, Opportunity, Lead, Appointment)
BULK: tuple[type[Entity], ...] = (Account, Contact, Task)
WITHOUT_ROUTES = (ApiKey, Workspace)
WITH_ASSIGNEE_EXCEPT = (Workspace, Member, ApiKey)
SECRET = "0" * 64
FIRST_SLOT = datetime(2030, 1, 7, 9, tzinfo=UTC)
SLOT = timedelta(minutes=30)


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
    others: tuple[int, ...] = ()
    with_job: bool = False
    is_repeated: bool = False
    is_reuse: bool = False


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
    foreign: list[KnownEntity] = field(default_factory=list)
    """Entities of another workspace, which this client must not reach."""
    commands: list[tuple[str, str]] = field(default_factory=list)
    """The names and ids of own commands that were acknowledged."""

    def add(self, entity: KnownEntity) -> None:
        """Add an entity; the oldest is dropped beyond KNOWN_MAX."""
        self.own.append(entity)
        del self.own[:-KNOWN_MAX]

    def add_command(self, op: str, command_id: str) -> None:
        """Add a command; the oldest is dropped beyond COMMANDS_KNOWN_MAX."""
        self.commands.append((op, command_id))
        del self.commands[:-COMMANDS_KNOWN_MAX]

    def find(self, kind: type[Entity], number: int, *, is_shared: bool) -> KnownEntity | None:
        """Return an entity of the kind; None if the client knows none."""
        found = self.of_kind(kind, is_shared=is_shared)
        return found[number % len(found)] if found else None

    def of_kind(self, kind: type[Entity], *, is_shared: bool) -> list[KnownEntity]:
        """Return the shared or else the own entities of a kind, the others if there are none."""
        pools = (self.shared, self.own) if is_shared else (self.own, self.shared)
        found = ([each for each in pool if each.kind == kind.KIND] for pool in pools)
        return next((each for each in found if each), [])

    def see(self, stream: str, version: int) -> None:
        """Note the version that an answer reported."""
        for entity in (*self.shared, *self.own):
            if entity.id == stream:
                entity.version = version


@dataclass(frozen=True)
class Request:
    """An operation with its entities, as it is sent."""

    sent: SentCommand
    kind: type[Entity]
    fields: dict[str, Any] = field(default_factory=dict)
    """The fields of an entity, or the members of the body."""
    account: str | None = None
    path: str = ""
    """The last part of the path of a step."""


def draw_operation(seed: int, client: str, number: int, *, by_http: bool) -> Operation:
    """Draw the operation of this number."""
    random = Random(f"{seed}/{client}/{number}")
    commands = HTTP_COMMANDS if by_http else DIRECT_COMMANDS
    command = random.choices([*commands], [*commands.values()])[0]
    kinds = [kind for kind in OF_KIND if not by_http or kind not in WITHOUT_ROUTES]
    kinds = {"status": [*STATUSES], "read": [*READ], "bulk": [*BULK]}.get(command, kinds)
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
        others=tuple(random.sample(range(KNOWN_MAX), random.randint(1, BULK_IDS_MAX))),
        with_job=random.random() < JOB_SHARE,
        is_repeated=by_http and random.random() < REPEAT_SHARE,
        is_reuse=random.random() < REUSE_SHARE,
    )


@dataclass(frozen=True)
class Resolver:
    """Chooses the entities of one operation."""

    operation: Operation
    op: str
    workspace: str
    known: KnownEntities
    new_id: UUID | None
    """The id of a new entity; None if the server chooses it."""
    position: int
    """The last position that the client knows."""
    key: str = ""

    def resolve(self) -> Request:
        """Return the request; a creation if the client knows no entity for the operation."""
        request = BY_COMMAND[self.operation.command](self)
        return request if request is not None else self._creation(self.operation.kind)

    def _sent(self, command: Command, kind: type[Entity], **more: Any) -> SentCommand:
        return SentCommand(self.op, command, kind.KIND, self.workspace, key=self.key, **more)

    def create(self) -> Request:
        """Create an entity of the kind."""
        return self._creation(self.operation.kind)

    def of_entity(self) -> Request | None:
        """Change, delete, restore or read an entity."""
        operation, kind = self.operation, self.operation.kind
        entity = self._entity(kind)
        if entity is None:
            return None
        fields: dict[str, Any] = {}
        if operation.command == "revise":
            fields = {**self._texts(kind), **self._assigned(kind)}
        elif operation.command == "status":
            statuses = STATUSES[kind]
            fields = {str(kind.STATUS_FIELD): statuses[operation.status % len(statuses)]}
        is_read = operation.command == "read"
        sent = self._sent(
            operation.command,
            kind,
            stream=entity.id,
            values=_flat(fields),
            expected_version=None if is_read else self._expected(entity),
            min_position=self.position if is_read else 0,
        )
        return Request(sent, kind, fields)

    def step(self) -> Request | None:
        """Confirm, cancel or complete an appointment; send or answer a proposal."""
        kind, path, action, status = STEPS[self.operation.status % len(STEPS)]
        entity = self._entity(kind)
        if entity is None:
            return self._creation(kind)
        values: dict[str, Any] = {"status": status}
        body: dict[str, Any] = {}
        if path == "confirm":
            body = {"confirmedBy": self.op, "notes": f"{self.op} notes"}
            values |= {"confirmedBy": self.op, "confirmationNotes": f"{self.op} notes"}
        elif path == "send":
            body = {"to": "ada@example.com"}
            values["sentTo"] = "ada@example.com"
        sent = self._sent("step", kind, stream=entity.id, values=values, change=action)
        return Request(sent, kind, body, path=path)

    def convert(self) -> Request | None:
        """Convert a lead."""
        lead = self._entity(Lead)
        if lead is None:
            return self._creation(Lead)
        values = {"status": LeadStatus.WON.value}
        sent = self._sent(
            "convert", Lead, stream=lead.id, values=values, expected_version=self._expected(lead)
        )
        return Request(sent, Lead)

    def sms(self) -> Request | None:
        """Send a message to a lead."""
        lead = self._entity(Lead)
        if lead is None:
            return self._creation(Lead)
        body = {"leadId": lead.id, "message": self.op}
        return Request(self._sent("sms", KINDS["sms"], values=body), KINDS["sms"], body)

    def merge(self) -> Request | None:
        """Merge one of the client's own accounts into another."""
        accounts = [each for each in self.known.own if each.kind == Account.KIND]
        if len(accounts) < 2:
            return None
        first = self.operation.entity_number % len(accounts)
        kept, other = accounts[first], accounts[first - 1]
        sent = self._sent("merge", Account, stream=kept.id, others=[other.id])
        return Request(sent, Account, {"with": other.id})

    def undo(self) -> Request | None:
        """Undo one of the last commands of this client."""
        if not self.known.commands:
            return None
        op, command = self.known.commands[self.operation.status % len(self.known.commands)]
        sent = self._sent("undo", self.operation.kind, undoes=op)
        return Request(sent, self.operation.kind, {"commandId": command})

    def bulk(self) -> Request | None:
        """Change, delete or restore some entities of a kind at once."""
        operation, kind = self.operation, self.operation.kind
        found = self.known.of_kind(kind, is_shared=operation.is_shared)
        if not found:
            return None
        ids = [found[number % len(found)].id for number in operation.others]
        if operation.with_job:
            random = Random(self.op)
            ids += [str(UUID(int=random.getrandbits(128), version=4)) for _ in range(JOB_IDS)]
        change = ("set", "set", "delete", "restore")[operation.status % 4]
        fields = self._texts(kind) if change == "set" else {}
        body = {
            "kind": kind.PLURAL,
            "ids": list(dict.fromkeys(ids)),
            "change": {change: fields or True},
            "atomic": operation.has_version and not operation.with_job,
        }
        sent = self._sent(
            "bulk",
            kind,
            values=_flat(fields),
            others=body["ids"],
            change=change,
            is_atomic=body["atomic"],
        )
        return Request(sent, kind, body)

    def import_file(self) -> Request:
        """Import a file of new accounts."""
        count = 1 + self.operation.account % IMPORT_ROWS_MAX
        rows = [f"{self.op} row {number}" for number in range(1, count + 1)]
        return Request(self._sent("import", Account, rows=rows), Account)

    def intrude(self) -> Request | None:
        """Change an entity of another workspace."""
        if not self.known.foreign:
            return None
        entity = self.known.foreign[self.operation.entity_number % len(self.known.foreign)]
        kind = kind_of(entity)
        change = ("revise", "delete", "bulk", "merge")[self.operation.status % 4]
        own = self._entity(kind)
        if change == "merge" and kind in (Account, Contact) and own is not None:
            sent = self._sent("intrude", kind, stream=own.id, others=[entity.id], change=change)
            return Request(sent, kind, {"with": entity.id})
        change = "revise" if change == "merge" else change
        sent = self._sent("intrude", kind, stream=entity.id, change=change)
        return Request(sent, kind, self._texts(kind))

    def _creation(self, kind: type[Entity]) -> Request:
        operation = self.operation
        fields = {**self._texts(kind), **self._assigned(kind)}
        more: dict[str, Any] = {}
        if kind is Account:
            fields["type"] = ("investor", "customer", "partner")[operation.status % 3]
        elif kind is ApiKey:
            fields |= {"role": "member", "secretSha256": SECRET}
        elif kind is Opportunity:
            fields["value"] = f"{operation.account}.50"
        elif kind is Lead:
            fields["phone"] = f"+44794600{operation.account:04}"
        elif kind is Appointment:
            member = self.known.find(Member, operation.account, is_shared=True)
            if member is None:
                return self._creation(Member)
            starts = FIRST_SLOT + operation.entity_number * SLOT
            fields["memberId"] = member.id
            more = {"startsAt": starts.isoformat(), "durationMinutes": 30}
        if kind in WITH_CHOSEN_STATUS:
            statuses = STATUSES[kind]
            fields[str(kind.STATUS_FIELD)] = statuses[operation.status % len(statuses)]
        sent = self._sent(
            "create",
            kind,
            stream=None if self.new_id is None else str(self.new_id),
            values=_flat(fields),
        )
        return Request(sent, kind, {**fields, **more}, self._account_for(kind))

    def _account_for(self, kind: type[Entity]) -> str | None:
        if not kind.BELONGS_TO_ACCOUNT or not (
            kind.ACCOUNT_REQUIRED or self.operation.member is None
        ):
            return None
        found = self.known.find(Account, self.operation.account, is_shared=self.operation.is_shared)
        return found.id if found else None

    def _entity(self, kind: type[Entity]) -> KnownEntity | None:
        operation = self.operation
        return self.known.find(kind, operation.entity_number, is_shared=operation.is_shared)

    def _expected(self, entity: KnownEntity) -> int | None:
        operation = self.operation
        return max(1, entity.version - operation.is_stale) if operation.has_version else None

    def _texts(self, kind: type[Entity]) -> dict[str, Any]:
        """Fields that hold the command's name, so that no two commands write the same."""
        fields: dict[str, Any] = {name_field(kind): self.op}
        if kind.KIND in SECOND_OF:
            fields[SECOND_OF[kind.KIND]] = f"{self.op} too"
            fields["customFields"] = {"op": self.op}
        return fields

    def _assigned(self, kind: type[Entity]) -> dict[str, Any]:
        operation = self.operation
        if operation.member is None or kind in WITH_ASSIGNEE_EXCEPT:
            return {}
        member = self.known.find(Member, operation.member, is_shared=operation.is_shared)
        return {"assignedTo": member.id} if member else {}


BY_COMMAND: dict[Command, Callable[[Resolver], Request | None]] = {
    "create": Resolver.create,
    **dict.fromkeys(("revise", "status", "delete", "restore", "read"), Resolver.of_entity),
    "step": Resolver.step,
    "convert": Resolver.convert,
    "sms": Resolver.sms,
    "merge": Resolver.merge,
    "undo": Resolver.undo,
    "bulk": Resolver.bulk,
    "import": Resolver.import_file,
    "intrude": Resolver.intrude,
}


def name_field(kind: type[Entity]) -> str:
    """Return the field that holds the name of an entity of this kind."""
    return NAME_OF.get(kind.KIND, "name")


def kind_of(entity: KnownEntity) -> type[Entity]:
    """Return the entity's aggregate class."""
    return KINDS[entity.kind]


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the custom ones as `customFields.<key>`."""
    custom = fields.get("customFields", {})
    flat = {name: value for name, value in fields.items() if name != "customFields"}
    return {**flat, **{f"customFields.{key}": value for key, value in custom.items()}}
