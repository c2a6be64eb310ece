"""An example of each kind: the values that its creation records, and a change of one field."""

from __future__ import annotations

from dataclasses import dataclass

from domain.account import Account
from domain.api_key import ApiKey
from domain.appointment import Appointment
from domain.contact import Contact
from domain.lead import Lead
from domain.meeting import Meeting
from domain.member import Member
from domain.note import Note
from domain.opportunity import Opportunity
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.sms import Sms
from domain.task import Task
from domain.workspace import Workspace
from tests.support.kinds import DESCRIBED_KINDS

ACME: FieldValues = {
    "company": "Acme",
    "type": "customer",
    "status": "prospect",
    "priority": "medium",
}
FIRST_CALL: FieldValues = {
    "title": "First call",
    "memberId": "00000000-0000-0000-0000-00000000000b",
    "startsAt": "2026-02-01T10:00:00+00:00",
    "endsAt": "2026-02-01T10:30:00+00:00",
    "status": "scheduled",
    "allowOverlap": False,
}
ADA_LOVELACE: FieldValues = {"name": "Ada Lovelace", "email": "ada@example.com"}
NIGHTLY_SYNC: FieldValues = {"name": "Nightly sync", "role": "member", "secretSha256": "0" * 64}
KICK_OFF: FieldValues = {"title": "Kick-off", "status": "scheduled"}
WALK_IN: FieldValues = {"name": "Ada Lovelace", "status": "new", "smsOptOut": False}
RENEWAL: FieldValues = {"name": "Renewal", "stage": "prospecting", "value": "1200.00"}
REMINDER: FieldValues = {
    "leadId": "00000000-0000-0000-0000-00000000000b",
    "phone": "+442079460000",
    "message": "Your documents are ready.",
    "status": "pending",
}
CALL_BACK: FieldValues = {"title": "Call back", "status": "todo"}


@dataclass(frozen=True)
class Example:
    """The values of a new entity, and a field with the value to which it is changed."""

    kind: type[Entity]
    values: FieldValues
    field: str
    value: str


EXAMPLES = [
    Example(Account, ACME, "company", "Acme Corporation"),
    Example(ApiKey, NIGHTLY_SYNC, "name", "Hourly sync"),
    Example(Appointment, FIRST_CALL, "title", "Second call"),
    Example(Contact, ADA_LOVELACE, "name", "Ada King"),
    Example(Lead, WALK_IN, "name", "Ada King"),
    Example(Meeting, KICK_OFF, "title", "Kick-off, again"),
    Example(Member, ADA_LOVELACE, "name", "Ada King"),
    Example(Note, {"body": "Likes tea."}, "body", "Likes coffee."),
    Example(Opportunity, RENEWAL, "name", "Renewal 2027"),
    Example(Sms, REMINDER, "message", "Your documents are here."),
    Example(Task, CALL_BACK, "title", "Write"),
    Example(Workspace, {"name": "Acme Sales"}, "name", "Acme Sales Europe"),
    *(Example(each.kind, each.example, *each.changed) for each in DESCRIBED_KINDS),
]
