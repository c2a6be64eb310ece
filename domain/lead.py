"""Lead: a potential customer, until it is won or lost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import AggregateEvent
from pydantic import Field

from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityRestoredWithStatusDate,
    EntityStatusChanged,
    EntityStep,
    EntityUpdated,
)
from domain.shared.fields import (
    READ_ONLY,
    Choice,
    Date,
    Email,
    Fields,
    Line,
    Money,
    Name,
    Phone,
    Text,
)
from domain.shared.properties import optional, required
from domain.shared.refusals import AlreadyConverted, StatusUnchanged


class LeadStatus(Choice):
    NEW = "new"
    CONTACTED = "contacted"
    QUALIFIED = "qualified"
    PROPOSAL_SENT = "proposal_sent"
    NEGOTIATING = "negotiating"
    WON = "won"
    LOST = "lost"


PIPELINE = (
    LeadStatus.NEW,
    LeadStatus.CONTACTED,
    LeadStatus.QUALIFIED,
    LeadStatus.PROPOSAL_SENT,
    LeadStatus.NEGOTIATING,
)
"""The statuses of an open lead, in order. A lead may skip some of them."""


class LeadFields(Fields):
    name: Name = Field(examples=["Ada Lovelace"])
    status: LeadStatus = LeadStatus.NEW
    company: Name | None = Field(default=None, examples=["Analytical Engines"])
    email: Email | None = Field(default=None, examples=["ada@example.com"])
    phone: Phone | None = Field(default=None, examples=["+44 20 7946 0000"])
    source: Name | None = Field(default=None, examples=["website"])
    value: Money | None = Field(default=None, description="What it may be worth.")
    next_action: Line | None = Field(default=None, examples=["Call back"])
    next_action_date: Date | None = None
    notes: Text | None = None
    sms_opt_out: bool = Field(default=False, description="Wants no text messages.")
    converted_account_id: UUID | None = Field(
        default=None, description="What it became.", json_schema_extra=READ_ONLY
    )
    converted_contact_id: UUID | None = Field(default=None, json_schema_extra=READ_ONLY)
    converted_opportunity_id: UUID | None = Field(default=None, json_schema_extra=READ_ONLY)


class Lead(Entity):
    """A lead moves forward until it is won or lost; won is final, a lost lead can be reopened.

    An open lead may skip statuses but not go back to an earlier one: undo corrects a mistake. A
    lost lead is reopened in any open status.

    Decisions, and when they are refused:

    create: a field is invalid, or is one that only `convert` sets (`InvalidFields`).
    revise, change_status: as create, or `TRANSITIONS` lacks the new status (`TransitionRefused`).
    update_status: as change_status, or the lead already has this status (`StatusUnchanged`).
    convert: it was converted before (`AlreadyConverted`), or is lost (`TransitionRefused`).
    delete, restore, undo_delete: never. Repeating one records nothing.
    revert: a field is no longer valid (`InvalidFields`). Used by undo; ignores `TRANSITIONS`.

    A deleted lead refuses all but delete, restore and undo_delete (`IsDeleted`). A decision dated
    before the last event is refused (`OccurredTooEarly`). Commands also refuse an assignee who is
    not a member of the workspace (`NotAMember`).
    """

    TOPIC = "lead"
    KIND = "lead"
    PLURAL = "leads"
    FIELDS = LeadFields
    IS_IMPORTABLE = True
    STATUS_FIELD = "status"
    HAS_STATUS_DATE = True
    SEARCH_FIELDS = ("name", "company", "email")
    TRANSITIONS: ClassVar[Mapping[LeadStatus, frozenset[LeadStatus]]] = {
        **{
            status: frozenset({*PIPELINE[place + 1 :], LeadStatus.WON, LeadStatus.LOST})
            for place, status in enumerate(PIPELINE)
        },
        LeadStatus.LOST: frozenset(PIPELINE),
    }

    name = required(str)
    status = required(str)
    company = optional(str)
    email = optional(str)
    phone = optional(str)
    source = optional(str)
    value = optional(Decimal)
    next_action = optional(str)
    next_action_date = optional(date.fromisoformat)
    notes = optional(str)
    sms_opt_out = optional(bool, default=False)
    converted_account_id = optional(UUID)
    converted_contact_id = optional(UUID)
    converted_opportunity_id = optional(UUID)

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "lead.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "lead.updated"

    class StatusChanged(Event, EntityStatusChanged):
        TOPIC = "lead.status_changed"

    class Deleted(Event, EntityDeleted):
        TOPIC = "lead.deleted"

    class Restored(Event, EntityRestoredWithStatusDate):
        TOPIC = "lead.restored"

    class Converted(Event, EntityStep):
        TOPIC = "lead.converted"

    def update_status(self, status: str, *, at: datetime) -> None:
        """Change the status. Raises `StatusUnchanged` if it is the same, and as `revise`."""
        self.require_not_deleted()
        if status == self.status:
            raise StatusUnchanged(self.KIND, self.id, status)
        self.change_status(status, at=at)

    def convert(
        self, *, account_id: UUID, contact_id: UUID, opportunity_id: UUID, at: datetime
    ) -> None:
        """Record the account, contact and opportunity made from the lead, and mark the lead as won.

        Raises `IsDeleted`, `AlreadyConverted`, `TransitionRefused`, `OccurredTooEarly`.
        """
        self.require_not_deleted()
        self._require_not_converted()
        converted = {
            "convertedAccountId": str(account_id),
            "convertedContactId": str(contact_id),
            "convertedOpportunityId": str(opportunity_id),
        }
        self._record_step(self.Converted, {"status": LeadStatus.WON.value, **converted}, at)

    def _require_not_converted(self) -> None:
        if self.converted_account_id is not None:
            raise AlreadyConverted(
                self.id,
                self.converted_account_id,
                self.converted_contact_id,
                self.converted_opportunity_id,
            )
