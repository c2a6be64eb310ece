"""Random lists of steps: commands on entities of all kinds, and runs of projectors in between.

A step names its entity by a number, taken modulo the entities that exist when the step is run. So
every list of steps can be run, and hypothesis can shorten it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from hypothesis import strategies as st

from commands.entities import EntityCommands
from commands.leads import ConversionOverrides, LeadCommands
from commands.merging import MergeCommands
from domain.account import Account, AccountStatus, AccountType, Priority
from domain.api_key import ApiKey, Role
from domain.appointment import Appointment
from domain.contact import Contact
from domain.lead import Lead, LeadStatus
from domain.meeting import Meeting, MeetingStatus
from domain.member import Member
from domain.note import Note
from domain.opportunity import Opportunity, Stage
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.merging import MergeableEntity
from domain.shared.refusals import Refusal
from domain.sms import Sms, SmsStatus, TemplateId
from domain.task import Task, TaskStatus
from domain.workspace import Workspace
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from tests.support.keys import credential, issue_first_key
from tests.support.kinds import DESCRIBED_KINDS

WORKSPACES = 2
MANY = 1_000
"""More than the entities of one kind in one list of steps."""
YEAR_2000 = datetime(2000, 1, 1, tzinfo=UTC)

Fields = dict[str, Any]

text = st.one_of(
    st.sampled_from(
        ["Acme", "acme corp", "100%", "a_b", "back\\slash", "Ünïcode", "O'Neil", "東京"]
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
        str.strip
    ),
)
money = st.decimals(0, 10**9, places=2).map(str)
days = st.dates(date(2020, 1, 1), date(2030, 12, 31)).map(date.isoformat)
instants = st.integers(0, 10**12).map(
    lambda ms: (YEAR_2000 + timedelta(milliseconds=ms)).isoformat()
)
busy_hours = st.integers(0, 12).map(
    lambda halves: (YEAR_2000 + timedelta(minutes=30 * halves)).isoformat()
)
custom_values = st.one_of(
    text,
    st.booleans(),
    st.sampled_from([0, 1, -1, 1.0, 0.1, 2**53, 1e22]),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
custom_keys = st.sampled_from(["sector", "vip", "a.b", "company", "x"])


def fields(required: dict[str, Any], **optional: st.SearchStrategy[Any]) -> Any:
    custom = st.dictionaries(custom_keys, custom_values, max_size=3)
    members = st.none() | st.integers(0, MANY)
    maybe = {name: st.none() | strategy for name, strategy in optional.items()}
    return st.fixed_dictionaries(
        required, optional={**maybe, "assignedTo": members, "customFields": custom}
    )


def _either(values: Any) -> st.SearchStrategy[str]:
    return st.sampled_from([str(value) for value in values])


def _accounts(type_: AccountType) -> Any:
    of_type = {"investor": "checkSize", "customer": "dealValue", "partner": "opportunity"}[type_]
    return fields(
        {
            "company": text,
            "type": st.just(str(type_)),
            "status": _either(AccountStatus),
            "priority": _either(Priority),
        },
        nextAction=text,
        nextActionDate=days,
        **{of_type: money},
    )


FIELDS: dict[type[Entity], st.SearchStrategy[Fields]] = {
    Account: st.one_of([_accounts(each) for each in AccountType]),
    Appointment: fields(
        {
            "title": text,
            "memberId": st.integers(0, MANY),
            "startsAt": busy_hours,
            "durationMinutes": st.sampled_from([30, 60, 90]),
            "allowOverlap": st.sampled_from([False, False, True]),
        },
        location=text,
        notes=text,
    ),
    ApiKey: fields(
        {"name": text, "role": _either(Role), "secretSha256": st.just("0" * 64)},
        expiresAt=instants,
    ),
    Contact: fields(
        {"name": text}, email=st.just("a@example.com"), phone=st.just("112"), title=text
    ),
    Lead: fields(
        {"name": text, "status": _either(LeadStatus), "smsOptOut": st.booleans()},
        company=text,
        email=st.just("a@example.com"),
        phone=st.just("112"),
        source=st.sampled_from(["website", "fair"]),
        value=money,
        nextAction=text,
        nextActionDate=days,
        notes=text,
    ),
    Meeting: fields(
        {"title": text, "status": _either(MeetingStatus)},
        startsAt=instants,
        endsAt=instants,
        location=text,
        agenda=text,
    ),
    Member: fields({"name": text}, email=st.just("a@example.com"), title=text),
    Note: fields({"body": text}, title=text),
    Opportunity: fields(
        {"name": text, "stage": _either(Stage)},
        value=money,
        engagedOn=days,
        expectedCloseOn=days,
        closedOn=days,
    ),
    Sms: fields(
        {
            "leadId": st.uuids().map(str),
            "phone": st.just("+442079460000"),
            "message": text,
            "status": _either(SmsStatus),
        },
        templateId=_either(TemplateId),
        gatewayId=st.just("SM1"),
        error=text,
        errorCode=st.just("30003"),
    ),
    Task: fields({"title": text, "status": _either(TaskStatus)}, dueDate=days, description=text),
    Workspace: fields({"name": text}),
    **{each.kind: each.any_fields(sys.modules[__name__]) for each in DESCRIBED_KINDS},
}
COMMON_KINDS: list[type[Entity]] = [
    Account,
    Appointment,
    Contact,
    Lead,
    Task,
    Meeting,
    Note,
    Opportunity,
    Member,
]
RARE_KINDS: list[type[Entity]] = [ApiKey, Sms, Workspace]


@dataclass(frozen=True)
class Create:
    """Create an entity, on one of the accounts if its kind belongs to an account."""

    workspace: int
    kind: type[Entity]
    fields: Fields
    account: int | None
    days_ago: int | None


@dataclass(frozen=True)
class Revise:
    """Set fields of an entity, all of them (`is_whole`) or some."""

    workspace: int
    kind: type[Entity]
    entity_number: int
    fields: Fields
    is_whole: bool
    days_ago: int | None


@dataclass(frozen=True)
class Delete:
    """Delete an entity."""

    workspace: int
    kind: type[Entity]
    entity_number: int


@dataclass(frozen=True)
class Restore:
    """Restore an entity, a deleted one if possible."""

    workspace: int
    kind: type[Entity]
    entity_number: int


@dataclass(frozen=True)
class Merge:
    """Merge another entity of the same type into an entity."""

    workspace: int
    kind: type[MergeableEntity]
    entity_number: int
    other: int
    choices: dict[str, str]


@dataclass(frozen=True)
class Project:
    """Run a new projector until it catches up or is killed, before or while it applies a batch."""

    batch_events: int
    killed_at_event: int | None = None
    killed_at_table: int | None = None


@dataclass(frozen=True)
class Act:
    """Call one of the methods that only an entity of this kind has."""

    workspace: int
    kind: type[Entity]
    entity_number: int
    what: int


@dataclass(frozen=True)
class Convert:
    """Convert a lead to an account, a contact and an opportunity."""

    workspace: int
    entity_number: int
    kind: type[Entity] = Lead


ACTS: dict[type[Entity], list[Callable[[Any, datetime], None]]] = {
    Appointment: [
        lambda one, at: one.confirm("Ada", at=at, notify=True),
        lambda one, at: one.confirm("Ada", at=at, notes="Gladly."),
        lambda one, at: one.reschedule({"startsAt": "2000-01-01T01:00:00Z"}, at=at),
        lambda one, at: one.reschedule({"startsAt": "2000-01-01T02:30:00Z"}, at=at),
        lambda one, at: one.cancel(at=at, reason="Ill"),
        lambda one, at: one.complete(at=at),
        lambda one, at: one.miss(at=at),
    ],
    Lead: [
        lambda lead, at: lead.update_status("contacted", at=at),
    ],
    **{each.kind: each.acts for each in DESCRIBED_KINDS if each.acts},
}
CommandStep = Create | Revise | Act | Convert | Delete | Restore | Merge
Step = CommandStep | Project

workspaces = st.integers(0, WORKSPACES - 1)
entity_numbers = st.integers(0, MANY)
busy_accounts = st.integers(0, 2)
ago = st.integers(0, 30)
now = st.none()


def _creations(kind: type[Entity]) -> st.SearchStrategy[Create]:
    account = busy_accounts if kind.ACCOUNT_REQUIRED else now | busy_accounts
    return st.builds(Create, workspaces, st.just(kind), FIELDS[kind], account, now | ago)


def _revisions(kind: type[Entity]) -> st.SearchStrategy[Revise]:
    when = st.one_of(now, now, now, now, ago)
    return st.builds(
        Revise, workspaces, st.just(kind), entity_numbers, FIELDS[kind], st.booleans(), when
    )


creations = st.one_of([_creations(kind) for kind in [*COMMON_KINDS, *COMMON_KINDS, *RARE_KINDS]])
revisions = st.one_of([_revisions(kind) for kind in [*COMMON_KINDS, *COMMON_KINDS, *RARE_KINDS]])
acts = st.builds(Act, workspaces, st.sampled_from(list(ACTS)), entity_numbers, st.integers(0, MANY))
conversions = st.builds(Convert, workspaces, entity_numbers)
choices = st.dictionaries(
    st.sampled_from(["assignedTo", "customFields", "customFields.sector", "customFields.x"]),
    st.sampled_from(["this", "other"]),
    max_size=2,
)
merges = st.builds(
    Merge,
    workspaces,
    st.sampled_from([Account, Account, Contact]),
    entity_numbers,
    entity_numbers,
    choices,
)
deletable_kinds = st.sampled_from([*[Account] * 4, *COMMON_KINDS, *RARE_KINDS])
projections = st.builds(
    Project,
    st.integers(1, 40),
    killed_at_event=st.none() | st.integers(0, 30),
    killed_at_table=st.none() | st.integers(0, 12),
)
steps: st.SearchStrategy[Step] = st.one_of(
    *[creations] * 5,
    *[revisions] * 4,
    *[acts] * 2,
    conversions,
    *[st.builds(Delete, workspaces, deletable_kinds, entity_numbers)] * 2,
    *[st.builds(Restore, workspaces, deletable_kinds, entity_numbers)] * 3,
    *[merges] * 2,
    projections,
)


def step_lists(min_size: int, max_size: int) -> st.SearchStrategy[list[Step]]:
    """Return a strategy of lists of steps; each begins with two accounts and a member."""
    setup = st.tuples(_creations(Account), _creations(Member), _creations(Account))
    return st.builds(
        lambda first, rest: [*first, *rest],
        setup,
        st.lists(steps, min_size=min_size, max_size=max_size),
    )


@dataclass
class StepRunner:
    """Runs steps in new workspaces and keeps the entities and refusals."""

    commands: EntityCommands
    merging: MergeCommands
    leads: LeadCommands
    scopes: list[Scope] = field(
        default_factory=lambda: [
            Scope(uuid4(), Actor("member", f"ada-{number}"), command_id=f"c-{number}")
            for number in range(WORKSPACES)
        ]
    )
    known: list[list[Entity]] = field(default_factory=lambda: [[] for _ in range(WORKSPACES)])
    refusals: list[Refusal] = field(default_factory=list)

    @classmethod
    def of(cls, log: EventLog, commands: EntityCommands, owner_url: str) -> StepRunner:
        """Return a runner that writes to this log, with an admin key for each workspace."""

        def clock() -> datetime:
            return datetime.now(UTC)

        leads = LeadCommands(log, clock=clock, new_id=uuid4)
        runner = cls(commands, MergeCommands(log, clock=clock), leads)
        runner.scopes = [
            replace(each, credential=credential(issue_first_key(owner_url, each.workspace_id)))
            for each in runner.scopes
        ]
        return runner

    def run(self, step: CommandStep) -> None:
        """Run one step; a refusal is kept and does not fail the test."""
        try:
            if isinstance(step, Create):
                self._create(step)
            elif isinstance(step, Merge):
                self._merge(step)
            elif isinstance(step, Convert):
                self._convert(step)
            else:
                self._change(step)
        except Refusal as refusal:
            self.refusals.append(refusal)

    def _create(self, step: Create) -> None:
        scope = self.scopes[step.workspace]
        outcome = self.commands.create(
            scope,
            step.kind,
            self._assigned(step.workspace, step.fields),
            account_id=self._account(step) if step.kind.BELONGS_TO_ACCOUNT else None,
            occurred_at=_days_ago(step.days_ago),
            entity_id=self._id(step),
        )
        self.known[step.workspace].append(outcome.entity)

    def _change(self, step: Revise | Act | Delete | Restore) -> None:
        scope, one = self.scopes[step.workspace], self.find_entity(step)
        if one is None:
            return
        kind = type(one)
        if isinstance(step, Delete):
            outcome = self.commands.delete(scope, kind, one.id)
        elif isinstance(step, Restore):
            outcome = self.commands.restore(scope, kind, one.id)
        elif isinstance(step, Act):
            act = ACTS[kind][step.what % len(ACTS[kind])]
            outcome = self.commands.act(scope, kind, one.id, act)
        else:
            change, at = self._revision(step), _days_ago(step.days_ago)
            outcome = self.commands.revise(scope, kind, one.id, change, occurred_at=at)
        known = self.known[step.workspace]
        known[known.index(one)] = outcome.entity

    def _merge(self, step: Merge) -> None:
        one = self.find_entity(step)
        known = self.known[step.workspace]
        others = [each for each in known if one and each is not one and _alike(one, each)]
        if one is None or not others:
            return
        other = others[step.other % len(others)]
        scope = self.scopes[step.workspace]
        merged = self.merging.merge(scope, step.kind, one.id, other.id, step.choices)
        known[known.index(one)] = merged.outcome.entity

    def _convert(self, step: Convert) -> None:
        one = self.find_entity(step)
        if one is None:
            return
        known = self.known[step.workspace]
        done = self.leads.convert(self.scopes[step.workspace], one.id, ConversionOverrides())
        known[known.index(one)] = done.lead
        known += [done.account, done.contact, done.opportunity]

    def find_entity(self, step: Revise | Act | Convert | Delete | Restore | Merge) -> Entity | None:
        """Return the entity of the step, or None if no such entity exists."""
        found = [each for each in self.known[step.workspace] if isinstance(each, step.kind)]
        if isinstance(step, Restore):
            found = [each for each in found if each.is_deleted] or found
        return found[step.entity_number % len(found)] if found else None

    def _revision(self, step: Revise) -> Callable[[FieldValues], Fields]:
        fields = self._assigned(step.workspace, step.fields)
        return lambda facts: fields if step.is_whole else {**facts, **fields}

    def _assigned(self, workspace: int, fields: Fields) -> Fields:
        """Replace the numbers of members by their ids, or by None without members."""
        members = [each for each in self.known[workspace] if isinstance(each, Member)]
        named = {"assignedTo": None, **fields}
        for name in {"assignedTo", "memberId"} & named.keys():
            number = named[name]
            member = members[number % len(members)].id if members and number is not None else None
            named[name] = member
        return named

    def _account(self, step: Create) -> UUID | None:
        accounts = [each for each in self.known[step.workspace] if isinstance(each, Account)]
        if step.account is None or not accounts:
            return None
        return accounts[step.account % len(accounts)].id

    def _id(self, step: Create) -> UUID | None:
        is_first = not any(isinstance(each, Workspace) for each in self.known[step.workspace])
        if step.kind is Workspace and is_first:
            return self.scopes[step.workspace].workspace_id
        return None


def _days_ago(number: int | None) -> datetime | None:
    return None if number is None else datetime.now(UTC) - timedelta(days=number)


def _alike(one: Entity, other: Entity) -> bool:
    return type(one) is type(other) and one.values.get("type") == other.values.get("type")
