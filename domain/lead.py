"""Lead: somebody who may become a customer."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from eventsourcing.domain import AggregateEvent
from pydantic import Field

from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityRestoredDated,
    EntityStatusChanged,
    EntityStep,
    EntityUpdated,
)
from domain.shared.fields import READ_ONLY, Date, Email, Fields, Line, Money, Name, Phone, Text
from domain.shared.refusals import AlreadyConverted, StatusUnchanged


class LeadStatus(StrEnum):
    NEW = "new"
    CONTACTED = "contacted"
    QUALIFIED = "qualified"
    PROPOSAL_SENT = "proposal_sent"
    NEGOTIATING = "negotiating"
    WON = "won"
    LOST = "lost"


PATH = (
    LeadStatus.NEW,
    LeadStatus.CONTACTED,
    LeadStatus.QUALIFIED,
    LeadStatus.PROPOSAL_SENT,
    LeadStatus.NEGOTIATING,
)
"""The statuses of an open lead, in the order in which they are passed; some may be passed over."""


class LeadFields(Fields):
    SET_BY_COMMAND = frozenset(
        {"converted_account_id", "converted_contact_id", "converted_opportunity_id"}
    )

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
    """A lead goes forward until it is won or lost; won is final, a lost one can be reopened.

    Steps may be passed over, but not taken back: a mistake is undone.
    """

    TOPIC = "lead"
    KIND = "lead"
    PLURAL = "leads"
    FIELDS = LeadFields
    STATUS_FIELD = "status"
    STATUS_DATED = True
    SEARCHED = ("name", "company", "email")
    TRANSITIONS: ClassVar[Any] = {
        **{
            status: frozenset({*PATH[place + 1 :], LeadStatus.WON, LeadStatus.LOST})
            for place, status in enumerate(PATH)
        },
        LeadStatus.LOST: frozenset(PATH),
    }

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "lead.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "lead.updated"

    class StatusChanged(Event, EntityStatusChanged):
        TOPIC = "lead.status_changed"

    class Deleted(Event, EntityDeleted):
        TOPIC = "lead.deleted"

    class Restored(Event, EntityRestoredDated):
        TOPIC = "lead.restored"

    class Converted(Event, EntityStep):
        TOPIC = "lead.converted"

    def update_status(self, status: str, *, at: datetime) -> None:
        """Move to this status, which must be another one than it has.

        Raises `StatusUnchanged`, and as `change_status`.
        """
        self.require_alive()
        if status == self.status:
            raise StatusUnchanged(self.KIND, self.id, status)
        self.change_status(status, at=at)

    def convert(
        self, *, account_id: UUID, contact_id: UUID, opportunity_id: UUID, at: datetime
    ) -> None:
        """It became an account, a contact and an opportunity, and so is won.

        Raises `AlreadyConverted`, `IsDeleted`, `TransitionRefused`, `OccurredTooEarly`.
        """
        self.require_alive()
        self.require_unconverted()
        became = {
            "convertedAccountId": str(account_id),
            "convertedContactId": str(contact_id),
            "convertedOpportunityId": str(opportunity_id),
        }
        self._step(self.Converted, {"status": LeadStatus.WON.value, **became}, at)

    def require_unconverted(self) -> None:
        """Raises `AlreadyConverted`, which names what it became."""
        if "convertedAccountId" in self.values:
            raise AlreadyConverted(
                self.id,
                UUID(self.values["convertedAccountId"]),
                UUID(self.values["convertedContactId"]),
                UUID(self.values["convertedOpportunityId"]),
            )
