"""Generated accounts with their history, made by the domain's own commands.

The same seed makes the same ids, fields and times, independent of the number of accounts. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar
from uuid import UUID

from domain.account import Account, AccountStatus, AccountType, Priority
from domain.appointment import Appointment
from domain.contact import Contact
from domain.lead import PIPELINE, Lead, LeadStatus
from domain.meeting import Meeting, MeetingStatus
from domain.member import Member
from domain.note import Note
from domain.opportunity import Opportunity, Stage
from domain.proposal import Proposal
from domain.shared.entity import Entity
from domain.task import Task, TaskStatus
from domain.workspace import Workspace

E = TypeVar("E", bound=Entity)

STARTS_AT = datetime(2024, 1, 1, tzinfo=UTC)
ENDS_AT = datetime(2025, 7, 1, tzinfo=UTC)
"""A fixed period of eighteen months, so that a seed makes the same data next year."""
MEMBERS = 24


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words("""
    Ada Amara Anton Beatriz Bilal Chen Clara Dara Diego Elif Emeka Eva Farid Freya Gita Hana
    Hugo Ines Ivan Jamal Joana Kai Keiko Lars Leila Lin Luca Maja Marco Mei Mila Nadia Niko Noor
    Olga Omar Paula Priya Rafael Rosa Samir Sara Sofia Tariq Tess Uma Viktor Wanda Yara Zoe
""")
LAST_NAMES = _words("""
    Abara Adler Almeida Bauer Berg Bianchi Brandt Castro Chopra Costa Dahl Diaz Dubois Eriksen
    Fischer Fontaine Garcia Gupta Haddad Hansen Hoang Ivanova Jansen Kaya Keller Khan Kim
    Kowalski Kumar Larsen Lopez Mensah Moreau Nakamura Novak Okafor Olsen Park Petrov Quinn
    Rahman Rossi Santos Sato Silva Tanaka Toure Vargas Weber Yilmaz
""")
FRONTS = _words("""
    Alpine Amber Arctic Atlas Aurora Birch Blue Bright Cedar Cobalt Copper Coral Crown Delta
    Eagle Echo Ember Falcon Fern Granite Harbor Hazel Horizon Indigo Iron Juniper Lunar Maple
    Meridian Nimbus Nova Oak Onyx Orchid Pine Quartz River Silver Summit Vega
""")
CORES = _words("""
    Analytics Bakery Biotech Capital Ceramics Cloud Coffee Consulting Dairy Design Dynamics
    Energy Farms Films Foods Forge Freight Games Glass Health Holdings Imports Labs Legal
    Lighting Logistics Media Mining Motors Networks Optics Paper Partners Robotics Shipping
    Software Solar Steel Systems Textiles
""")
FORMS = ("Ltd", "Inc", "GmbH", "SA", "BV", "AB", "Group", "Co")
CITIES = _words("""
    Accra Athens Bergen Bogota Boston Cairo Chennai Cork Dakar Delft Dublin Espoo Geneva Ghent
    Hanoi Jakarta Kigali Krakow Kyoto Lagos Leeds Lima Lisbon Lyon Malmo Nairobi Oslo Porto
    Quito Riga Rome Seoul Sofia Tallinn Tunis Turin Utrecht Vienna Vilnius Zagreb
""")
SECTORS = ("technology", "retail", "health", "finance", "energy", "education", "manufacturing")
SOURCES = ("referral", "website", "trade fair", "cold call", "partner")
TITLES = ("CEO", "CFO", "CTO", "Head of Sales", "Head of Purchasing", "Office Manager", "Counsel")
ACTIONS = (
    "Send the offer",
    "Call back",
    "Book a demonstration",
    "Send the contract",
    "Ask for news",
)
TASKS = ("Prepare the offer", "Call about the invoice", "Update the forecast", "Check the contract")
MEETINGS = ("Kick-off", "Quarterly review", "Demonstration", "Contract talks", "Lunch")
DEALS = ("Renewal", "Pilot", "Extension", "Rollout", "Support contract", "Licences")
NOTES = (
    "Prefers to be called in the morning.",
    "Budget is decided in the autumn.",
    "Compares us with two others; price is not the point.",
    "Met at the fair, asked for references.",
    "Wants one contact for everything.",
)


@dataclass(frozen=True)
class DemoMember:
    """A member of the demo workspace."""

    id: UUID
    name: str


def workspace_id(seed: int) -> UUID:
    """Return the id of the workspace of this seed."""
    return _random_id(_random_source(seed, "workspace"))


def account_id(seed: int, index: int) -> UUID:
    """Return the id of an account by its index, from 0."""
    return _random_id(_random_source(seed, index))


def demo_members(seed: int) -> list[DemoMember]:
    """Return the members of the workspace, always in the same order."""
    random = _random_source(seed, "people")
    first = random.sample(FIRST_NAMES, MEMBERS)
    last = random.sample(LAST_NAMES, MEMBERS)
    return [
        DemoMember(_random_id(random), f"{one} {other}")
        for one, other in zip(first, last, strict=True)
    ]


def create_workspace_and_members(seed: int) -> list[Entity]:
    """Create the workspace and its members; their events are pending."""
    workspace = workspace_id(seed)
    entities: list[Entity] = [
        Workspace.create(workspace, workspace, {"name": f"Demo {seed}"}, at=STARTS_AT)
    ]
    for member in demo_members(seed):
        email = f"{member.name.replace(' ', '.').lower()}@annals.example"
        fields = {"name": member.name, "email": email, "title": "Account manager"}
        entities.append(Member.create(member.id, workspace, fields, at=STARTS_AT))
    return entities


def company_name(index: int, shift: int) -> str:
    """Return the company name of an index; the names of the first half million are distinct."""
    round_, number = divmod(index, len(FRONTS) * len(CORES) * len(FORMS))
    number = (number * 7_919 + shift) % (len(FRONTS) * len(CORES) * len(FORMS))
    number, front = divmod(number, len(FRONTS))
    form, core = divmod(number, len(CORES))
    name = f"{FRONTS[front]} {CORES[core]} {FORMS[form]}"
    return f"{name} {CITIES[(round_ - 1) % len(CITIES)]}" if round_ else name


def generate_account(seed: int, index: int, owner: DemoMember) -> list[Entity]:
    """Generate an account and the entities that belong to it; all their events are pending."""
    random = _random_source(seed, index)
    entity_id = _random_id(random)
    name = company_name(index, seed)
    sales_random = _random_source(seed, f"{index} sales")
    generator = AccountGenerator(random, sales_random, workspace_id(seed), owner, entity_id, name)
    generator.run()
    return generator.entities


@dataclass
class AccountGenerator:
    """Generates the history of one account. Within an entity, times only increase."""

    random: Random
    sales_random: Random
    """Used for leads, appointments and proposals, so that the rest does not depend on them."""
    workspace: UUID
    owner: DemoMember
    account_id: UUID
    company: str
    entities: list[Entity] = field(default_factory=list)

    def run(self) -> None:
        """Fill `entities` with the account, its children and their leads."""
        account = self._add_account()
        for _ in range(self.random.choice((1, 2, 2, 3, 3, 4))):
            self._add_contact(account)
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 2))):
            self._add_task(account)
        if self.random.random() < 0.7:
            self._add_meeting(account)
        for _ in range(self.random.choice((0, 1, 1, 2))):
            self._add_note(account)
        for _ in range(self.random.choice((0, 1, 1, 2, 2, 3))):
            self._add_opportunity(account)
        self._add_sales(account)
        if self.random.random() < 0.04:
            self._delete_account(account)

    def _add_account(self) -> Account:
        random = self.random
        type_ = random.choices(list(AccountType), (2, 6, 2))[0]
        fields = {
            "company": self.company,
            "type": type_,
            "status": random.choice((AccountStatus.PROSPECT, AccountStatus.ACTIVE)),
            "priority": random.choice(list(Priority)),
            "assignedTo": str(self.owner.id),
            "customFields": {
                "sector": random.choice(SECTORS),
                "employees": random.randint(3, 5_000),
                "source": random.choice(SOURCES),
            },
            **_type_fields(type_, random),
        }
        created_at = STARTS_AT + timedelta(minutes=random.randrange(400 * 24 * 60))
        account = self._create(Account, fields, created_at)
        if random.random() < 0.6:
            at = self._time_after(created_at, 120)
            action = {"nextAction": random.choice(ACTIONS), "nextActionDate": self._date_after(at)}
            account.revise({**account.values, **action}, at=at)
        if random.random() < 0.6:
            status = random.choice([each for each in AccountStatus if each != account.status])
            account.change_status(status, at=self._time_after(account.modified_on, 200))
        return account

    def _add_contact(self, account: Account) -> None:
        random = self.random
        name = _random_name(random)
        host = self.company.lower().replace(" ", "-")
        fields = {"name": name, "title": random.choice(TITLES)}
        if random.random() < 0.7:
            fields["email"] = f"{name.replace(' ', '.').lower()}@{host}.example"
        if random.random() < 0.7:
            fields["phone"] = f"+44 20 7946 {random.randint(0, 9_999):04}"
        contact = self._create(Contact, fields, self._time_after(account.created_on, 60), account)
        if random.random() < 0.2:
            title = random.choice(TITLES)
            at = self._time_after(contact.modified_on, 300)
            contact.revise({**contact.values, "title": title}, at=at)
        if random.random() < 0.05:
            contact.delete(at=self._time_after(contact.modified_on, 100))
            if random.random() < 0.5:
                contact.restore(at=self._time_after(contact.modified_on, 10))

    def _add_task(self, account: Account) -> None:
        created_at = self._time_after(account.created_on, 300)
        fields = {
            "title": self.random.choice(TASKS),
            "dueDate": self._date_after(created_at),
            "assignedTo": str(self.owner.id),
        }
        task = self._create(Task, fields, created_at, account)
        for status in self.random.choice(_TASK_PATHS):
            task.change_status(status, at=self._time_after(task.modified_on, 20))

    def _add_meeting(self, account: Account) -> None:
        planned = self._time_after(account.created_on, 200)
        starts = (planned + timedelta(days=7)).replace(hour=9, minute=0, second=0, microsecond=0)
        fields = {
            "title": self.random.choice(MEETINGS),
            "startsAt": starts,
            "endsAt": starts + timedelta(hours=1),
            "location": self.random.choice(CITIES),
            "assignedTo": str(self.owner.id),
        }
        meeting = self._create(Meeting, fields, planned, account)
        status = self.random.choices((MeetingStatus.HELD, MeetingStatus.CANCELLED, None), (6, 2, 2))
        if status[0]:
            meeting.change_status(status[0], at=max(planned, min(starts, ENDS_AT)))

    def _add_note(self, account: Account) -> None:
        body = self.random.choice(NOTES)
        self._create(Note, {"body": body}, self._time_after(account.created_on, 300), account)

    def _add_opportunity(self, account: Account) -> None:
        random = self.random
        created_at = self._time_after(account.created_on, 250)
        fields: dict[str, Any] = {
            "name": f"{random.choice(DEALS)} {created_at.year}",
            "value": f"{random.randint(5, 900) * 100}.00",
            "expectedCloseOn": (created_at + timedelta(days=random.randint(30, 180))).date(),
            "assignedTo": str(self.owner.id),
        }
        deal = self._create(Opportunity, fields, created_at, account)
        for stage in random.choices(_DEAL_PATHS, _DEAL_WEIGHTS)[0]:
            at = self._time_after(deal.modified_on, 60)
            changes: dict[str, Any] = {"stage": stage}
            if stage is Stage.ENGAGING and deal.engaged_on is None:
                changes["engagedOn"] = at.date()
            if stage in (Stage.WON, Stage.LOST):
                changes |= {"closedOn": at.date(), "value": f"{random.randint(5, 900) * 100}.00"}
            deal.revise({**deal.values, **changes}, at=at)

    def _add_sales(self, account: Account) -> None:
        """Add proposals, appointments and leads."""
        deals = [each for each in self.entities if isinstance(each, Opportunity)]
        contacts = [
            each for each in self.entities if isinstance(each, Contact) and not each.is_deleted
        ]
        if not contacts:
            return
        for deal in deals:
            self._add_proposal(account, deal, contacts[0])
        if self.sales_random.random() < 0.4:
            self._add_appointment(account, contacts[0])
        if deals and self.sales_random.random() < 0.25:
            self._add_lead(contacts[0], converted_into=deals[0])
        for _ in range(self.sales_random.choice((0, 0, 1))):
            self._add_lead(contacts[-1])

    def _add_proposal(self, account: Account, deal: Opportunity, contact: Contact) -> None:
        stage = deal.stage
        if stage not in _STAGES_WITH_PROPOSAL:
            return
        fields = {
            "title": deal.name,
            "value": deal.value,
            "opportunityId": str(deal.id),
        }
        proposal = self._create_sales(
            Proposal, fields, self._sales_time_after(deal.created_on, 20), account
        )
        if stage == Stage.PROPOSAL and self.sales_random.random() < 0.3:
            return  # the proposal stays a draft
        to = contact.email or "office@example.com"
        proposal.send(to, at=self._sales_time_after(proposal.modified_on, 5))
        if stage == Stage.WON:
            proposal.accept(at=self._sales_time_after(proposal.modified_on, 20))
        elif stage == Stage.LOST:
            reason = self.sales_random.choice(_DECLINE_REASONS)
            proposal.decline(at=self._sales_time_after(proposal.modified_on, 20), reason=reason)

    def _add_appointment(self, account: Account, contact: Contact) -> None:
        random = self.sales_random
        planned = self._sales_time_after(contact.created_on, 200)
        starts = (planned + timedelta(days=random.randint(1, 20))).replace(
            hour=random.randint(8, 17), minute=random.choice((0, 30)), second=0, microsecond=0
        )
        fields = {
            "title": random.choice(MEETINGS),
            "memberId": str(self.owner.id),
            "startsAt": starts,
            "durationMinutes": random.choice((30, 45, 60)),
            "contactId": str(contact.id),
            "allowOverlap": True,  # a member's other accounts are generated independently
        }
        appointment = self._create_sales(Appointment, fields, planned, account)
        if random.random() < 0.7:
            confirmed_at = self._sales_time_after(planned, 1)
            appointment.confirm(contact.name, at=confirmed_at)
        over = starts + timedelta(hours=1)
        if over < ENDS_AT:
            outcomes = (appointment.complete, appointment.miss, appointment.cancel)
            random.choices(outcomes, (7, 1, 2))[0](at=max(over, appointment.modified_on))

    def _add_lead(self, contact: Contact, converted_into: Opportunity | None = None) -> None:
        """Add a lead: one that became the contact, or a colleague of the contact."""
        random = self.sales_random
        name = contact.name if converted_into else _random_name(random)
        fields: dict[str, Any] = {
            "name": name,
            "company": self.company,
            "source": random.choice(SOURCES),
            "value": f"{random.randint(5, 900) * 100}.00",
            "assignedTo": str(self.owner.id),
        }
        if random.random() < 0.8:
            fields["phone"] = f"+44 20 7946 {random.randint(0, 9_999):04}"
        until = converted_into.created_on if converted_into else ENDS_AT
        created_at = STARTS_AT + (until - STARTS_AT) * random.random()
        lead = self._create_sales(Lead, fields, created_at)
        for status in PIPELINE[1 : random.randint(1, len(PIPELINE))]:
            lead.update_status(status, at=lead.modified_on + (until - lead.modified_on) / 3)
        if converted_into:
            lead.convert(
                account_id=self.account_id,
                contact_id=contact.id,
                opportunity_id=converted_into.id,
                at=max(converted_into.created_on, contact.created_on),
            )
        elif random.random() < 0.25:
            at = lead.modified_on + (until - lead.modified_on) / 3
            lead.update_status(LeadStatus.LOST, at=at)

    def _delete_account(self, account: Account) -> None:
        """Delete the account with its children; some are restored later."""
        children = [
            each for each in self.entities if each.account_id == account.id and not each.is_deleted
        ]
        if any(isinstance(each, Opportunity) and each.is_open for each in children):
            return
        at = self._time_after(max(each.modified_on for each in (account, *children)), 30)
        for child in children:
            child.delete(at=at, deleted_with=account.id)
        account.delete(at=at + _MILLISECOND)
        if self.random.random() < 0.4:
            at = self._time_after(account.modified_on, 5)
            account.restore(at=at)
            for child in children:
                child.restore(at=at + _MILLISECOND)

    def _create(
        self, kind: type[E], fields: dict[str, Any], at: datetime, account: Account | None = None
    ) -> E:
        entity_id = _random_id(self.random) if account else self.account_id
        return self._add_entity(kind, entity_id, fields, at, account)

    def _create_sales(
        self, kind: type[E], fields: dict[str, Any], at: datetime, account: Account | None = None
    ) -> E:
        return self._add_entity(kind, _random_id(self.sales_random), fields, at, account)

    def _add_entity(
        self,
        kind: type[E],
        entity_id: UUID,
        fields: dict[str, Any],
        at: datetime,
        account: Account | None,
    ) -> E:
        account_id = account.id if account else None
        entity = kind.create(entity_id, self.workspace, fields, at=at, account_id=account_id)
        self.entities.append(entity)
        return entity

    def _sales_time_after(self, after: datetime, days_max: int) -> datetime:
        return _random_time_after(self.sales_random, after, days_max)

    def _time_after(self, after: datetime, days_max: int) -> datetime:
        return _random_time_after(self.random, after, days_max)

    def _date_after(self, at: datetime) -> Any:
        return (at + timedelta(days=self.random.randint(2, 40))).date()


def _random_time_after(random: Random, after: datetime, days_max: int) -> datetime:
    """Return a time at most `days_max` days later and not later than `ENDS_AT`."""
    wanted = after + timedelta(minutes=random.randrange(10, days_max * 24 * 60))
    left = ENDS_AT - after
    return wanted if wanted < ENDS_AT else after + left * random.uniform(0.1, 0.9)


def _random_name(random: Random) -> str:
    return f"{random.choice(FIRST_NAMES)} {random.choice(LAST_NAMES)}"


_MILLISECOND = timedelta(milliseconds=1)
_STAGES_WITH_PROPOSAL = frozenset({Stage.PROPOSAL, Stage.NEGOTIATING, Stage.WON, Stage.LOST})
_DECLINE_REASONS = ("Too dear", "Took another one", "No budget this year")
_TASK_PATHS: Sequence[tuple[TaskStatus, ...]] = (
    (),
    (TaskStatus.IN_PROGRESS,),
    (TaskStatus.DONE,),
    (TaskStatus.IN_PROGRESS, TaskStatus.DONE),
)
_DEAL_PATHS: Sequence[tuple[Stage, ...]] = (
    (),
    (Stage.ENGAGING,),
    (Stage.ENGAGING, Stage.PROPOSAL),
    (Stage.ENGAGING, Stage.PROPOSAL, Stage.NEGOTIATING),
    (Stage.ENGAGING, Stage.PROPOSAL, Stage.NEGOTIATING, Stage.WON),
    (Stage.ENGAGING, Stage.PROPOSAL, Stage.WON),
    (Stage.ENGAGING, Stage.LOST),
    (Stage.ENGAGING, Stage.PROPOSAL, Stage.LOST),
    (Stage.ENGAGING, Stage.LOST, Stage.ENGAGING),
)
_DEAL_WEIGHTS = (8, 16, 12, 8, 16, 14, 10, 12, 4)


def _type_fields(type_: AccountType, random: Random) -> dict[str, Any]:
    amount = f"{random.randint(1, 500) * 1_000}.00"
    if type_ is AccountType.INVESTOR:
        return {"checkSize": amount}
    if type_ is AccountType.CUSTOMER:
        return {"dealValue": amount}
    return {"opportunity": random.choice(("Resells our licences", "Joint offers", "Referrals"))}


def _random_source(seed: int, part: object) -> Random:
    """Return a random source for one part of the data, so that no part depends on another."""
    return Random(f"annals:{seed}:{part}")


def _random_id(random: Random) -> UUID:
    return UUID(int=random.getrandbits(128), version=4)


def collect_events_in_order(entities: Sequence[Entity]) -> Iterator[Any]:
    """Collect the pending events of these entities in the order in which they occurred."""
    events = [event for entity in entities for event in entity.collect_events()]
    return iter(sorted(events, key=lambda event: event.timestamp))
