"""Workspaces filled with entities from a seed, with names that make searching hard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import psycopg

from commands.entities import EntityCommands
from commands.jobs.requests import JobCommands
from domain.account import Account, AccountStatus, AccountType, Priority
from domain.appointment import Appointment
from domain.contact import Contact
from domain.lead import Lead, LeadStatus
from domain.meeting import Meeting, MeetingStatus
from domain.member import Member
from domain.note import Note
from domain.opportunity import Opportunity, Stage
from domain.shared.entity import Entity
from domain.shared.refusals import Refusal
from domain.task import Task, TaskStatus
from eventlog.connections import write_pool
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from server.postgres.embedded import Cluster
from tests.support.databases import Urls, fresh_database
from tests.support.kinds import DESCRIBED_KINDS
from tests.support.oracle import recorded_events
from tests.support.reference_lists import FILTERS, SORTS, ListRequest, ReferenceLists, column

NAMES = [
    "Acme", "ACME Corp", "acme corp", "A_me", "A%me", "Acme%", "100% Pure", "100 Pure", "%%%",
    "back\\slash", "back\\\\slash", "a\\_b", "___", "O'Neil & Söhne", "o'neil", "-- ;", "$1",
    "ÜNÏCODE", "ünïcode", "東京", "東京都庁", "Straße", "STRASSE", "Zoë", "zoe", "ΑΒΓ", "αβγ",
    "e", "Ab", "abcd", "bcde", "cdef",
]  # fmt: skip
SEARCHES = [
    *NAMES, "a", "%", "_", "\\", "ac", "CME", "e c", "00%", "\\\\", "k\\s", "'", "京", "ß", "SS",
    "ü", "Ï", "absent", "   ", "bcd", "__", "%%", "corp", "%s", "%(x)s", "αΒ",
]  # fmt: skip
NAMED: dict[type[Entity], str] = {
    Account: "company",
    Appointment: "title",
    Contact: "name",
    Lead: "name",
    Meeting: "title",
    Note: "body",
    Opportunity: "name",
    Task: "title",
    **{each.kind: each.searched.split()[0] for each in DESCRIBED_KINDS},
}
SEED = 20260131
REQUESTS_PER_LIST = 60
START = datetime(2024, 1, 1, tzinfo=UTC)


class WorkspaceFiller:
    """Fills a workspace; for the same seed in the same way, except for ids and recording times."""

    def __init__(self, commands: EntityCommands, scope: Scope, seed: int) -> None:
        self._commands = commands
        self._scope = scope
        self._random = Random(seed)
        self._members: list[UUID] = []
        self._leads: list[UUID] = []
        self.accounts: list[UUID] = []
        self.others: list[tuple[type[Entity], UUID]] = []

    def fill(self, accounts: int, others: int) -> None:
        """Create members and accounts, then other entities on the accounts; delete some of them."""
        for _ in range(4):
            self._members.append(self._create(Member, {"name": self._name()}))
        for _ in range(accounts):
            self.add_account()
        for _ in range(others):
            self.others.append(self._add_other())
        for _ in range(others // 4):
            self._change_one()
        self._commands.delete(self._scope, Member, self._members.pop())
        for kind, entity_id in self._random.sample(self.others, others // 10):
            self._commands.delete(self._scope, kind, entity_id)

    def add_account(self) -> UUID:
        """Create an account; return its id."""
        fields = {
            "company": self._name(),
            "type": self._either(AccountType),
            "status": self._either(AccountStatus),
            "priority": self._either(Priority),
        }
        account = self._create(Account, fields)
        self.accounts.append(account)
        return account

    def _add_other(self) -> tuple[type[Entity], UUID]:
        day = f"2026-0{self._random.randint(1, 9)}-01"
        some = self._random.choice
        choices: list[tuple[type[Entity], dict[str, Any]]] = [
            (Appointment, {"title": self._name(), "memberId": some(self._members),
                           "startsAt": f"{day}T10:00:00Z", "durationMinutes": 30,
                           "allowOverlap": True, "leadId": some([None, *self._leads])}),
            (Contact, {"name": self._name(), "email": "a@example.com"}),
            (Lead, {"name": self._name(), "status": self._either(LeadStatus),
                    "company": some([None, self._name()]), "source": some([None, "fair", "web"]),
                    "email": some([None, "corp@example.com"]), "value": some([None, "0.10"]),
                    "nextActionDate": some([None, day])}),
            (Meeting, {"title": self._name(), "status": self._either(MeetingStatus),
                       "startsAt": some([None, f"{day}T10:00:00Z"])}),
            (Note, {"body": self._name()}),
            (Opportunity, {"name": self._name(), "stage": self._either(Stage),
                           "value": some([None, "0.10", "1000.00"])}),
            (Task, {"title": self._name(), "status": self._either(TaskStatus),
                    "dueDate": some([None, day])}),
            *((each.kind, each.any_values(some, self._name())) for each in DESCRIBED_KINDS),
        ]  # fmt: skip
        kind, fields = some(choices)
        account: UUID | None = some(self.accounts)
        if not kind.BELONGS_TO_ACCOUNT or (not kind.ACCOUNT_REQUIRED and some([True, False])):
            account = None
        made = self._create(kind, fields, account)
        self._leads += [made] if kind is Lead else []
        return kind, made

    def _change_one(self) -> None:
        """Change name and assignee of one entity, some hours later, and perhaps its status."""
        accounts: list[tuple[type[Entity], UUID]] = [(Account, each) for each in self.accounts]
        kind, entity_id = self._random.choice([*accounts, *self.others])
        name = NAMED[kind]
        change: dict[str, Any] = {
            name: self._name(),
            "assignedTo": self._random.choice(self._members),
        }
        if kind.STATUS_FIELD and self._random.random() < 0.5:
            change[kind.STATUS_FIELD] = self._random.choice(sorted(kind.TRANSITIONS))
        at = START + timedelta(hours=self._random.randint(20, 40))
        with suppress(Refusal):
            self._commands.revise(
                self._scope, kind, entity_id, lambda values: {**values, **change}, occurred_at=at
            )

    def _create(self, kind: type[Entity], fields: dict[str, Any], account: Any = None) -> UUID:
        # Few times for many entities, so that the id decides the order.
        at = START + timedelta(hours=self._random.randint(0, 20), microseconds=500_000)
        fields["customFields"] = {"lucky": self._random.choice([True, 1, 1.5, "yes"])}
        if self._members:
            fields["assignedTo"] = self._random.choice([None, *self._members])
        outcome = self._commands.create(
            self._scope, kind, fields, account_id=account, occurred_at=at
        )
        return outcome.entity.id

    def _name(self) -> str:
        return self._random.choice(NAMES)

    def _either(self, values: Any) -> str:
        return str(self._random.choice(list(values)))


@dataclass(frozen=True)
class PopulatedDatabase:
    """A database with two filled workspaces and the reference lists of each."""

    urls: Urls
    fillers: list[WorkspaceFiller]
    workspaces: list[UUID]
    references: list[ReferenceLists]


@contextmanager
def populated_database(cluster: Cluster, template: str, seed: int) -> Iterator[PopulatedDatabase]:
    """Provide a filled and projected database while the block lasts."""
    scopes = [Scope(uuid4()), Scope(uuid4())]
    with fresh_database(cluster, template) as urls:
        with write_pool(urls.app) as pool:
            log = EventLog(pool)
            commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)
            jobs = JobCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)
            for scope in scopes:
                jobs.request(scope, "bulk", {"kind": "note"}, total=7)
            fillers = [WorkspaceFiller(commands, scope, seed + n) for n, scope in enumerate(scopes)]
            for filler in fillers:
                filler.fill(accounts=40, others=160)
        ProjectionEngine(urls.projector, PROJECTIONS.values()).catch_up()
        with psycopg.connect(urls.superuser) as connection:
            events = recorded_events(connection)
        workspaces = [scope.workspace_id for scope in scopes]
        references = [ReferenceLists(events, workspace_id) for workspace_id in workspaces]
        yield PopulatedDatabase(urls, fillers, workspaces, references)


def random_requests(
    plural: str, reference: ReferenceLists, number: int = REQUESTS_PER_LIST
) -> list[ListRequest]:
    """Draw requests: with filters whose values occur in the list, and without."""
    random = Random(f"{SEED} {plural}")
    return [_random_request(random, plural, reference) for _ in range(number)]


def _random_request(random: Random, plural: str, reference: ReferenceLists) -> ListRequest:
    filters = {}
    for name in FILTERS[plural].split():
        values = {row[column(name)] for row in reference.rows(plural)} - {None}
        if values and random.random() < 0.3:
            filters[name] = str(random.choice([*sorted(values), next(iter(values))]))
    return ListRequest(
        plural,
        filters=filters,
        search=random.choice([None, *random.sample(SEARCHES, 2)]),
        sort_by=random.choice(sorted(SORTS[plural])),
        descending=random.random() < 0.5,
        include_contacts=random.random() < 0.5,
    )
