"""Proposal: what is offered to somebody, in writing."""

from __future__ import annotations

from collections.abc import Mapping
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
    EntityRestored,
    EntityStatusChanged,
    EntityStep,
    EntityUpdated,
)
from domain.shared.fields import (
    READ_ONLY,
    Date,
    Email,
    Fields,
    FieldValues,
    Instant,
    Line,
    Money,
    Name,
    Text,
)


class ProposalStatus(StrEnum):
    DRAFT = "draft"
    SENT = "sent"
    ACCEPTED = "accepted"
    DECLINED = "declined"


class ProposalFields(Fields):
    SET_BY_COMMAND = frozenset({"sent_at", "sent_to", "answered_at", "decline_reason"})

    title: Name = Field(examples=["Renewal 2027"])
    status: ProposalStatus = ProposalStatus.DRAFT
    body: Text | None = None
    value: Money | None = None
    valid_until: Date | None = None
    opportunity_id: UUID | None = None
    sent_at: Instant | None = Field(default=None, json_schema_extra=READ_ONLY)
    sent_to: Email | None = Field(default=None, json_schema_extra=READ_ONLY)
    answered_at: Instant | None = Field(default=None, json_schema_extra=READ_ONLY)
    decline_reason: Line | None = Field(default=None, json_schema_extra=READ_ONLY)


class Proposal(Entity):
    """A draft is sent, and then accepted or declined.

    What was sent stays as it was sent: to change it is to make it a draft again (`redraft`), which
    is possible until it is accepted.
    """

    TOPIC = "proposal"
    KIND = "proposal"
    PLURAL = "proposals"
    FIELDS = ProposalFields
    SEARCHED = ("title",)
    STATUS_FIELD = "status"
    TRANSITIONS: ClassVar[Any] = {
        ProposalStatus.DRAFT: frozenset({ProposalStatus.SENT}),
        ProposalStatus.SENT: frozenset(ProposalStatus) - {ProposalStatus.SENT},
        ProposalStatus.DECLINED: frozenset({ProposalStatus.DRAFT}),
    }
    BELONGS_TO_ACCOUNT = True
    ACCOUNT_REQUIRED = True
    REFERENCES: ClassVar[Any] = {"opportunityId": "opportunity"}
    IN_WRITING = frozenset({"title", "body", "value", "validUntil"})

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "proposal.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "proposal.updated"

    class StatusChanged(Event, EntityStatusChanged):
        TOPIC = "proposal.status_changed"

    class Deleted(Event, EntityDeleted):
        TOPIC = "proposal.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "proposal.restored"

    class Sent(Event, EntityStep):
        TOPIC = "proposal.sent"

    class Accepted(Event, EntityStep):
        TOPIC = "proposal.accepted"

    class Declined(Event, EntityStep):
        TOPIC = "proposal.declined"

    class Revised(Event, EntityStep):
        TOPIC = "proposal.revised"

    def send(self, to: str, *, at: datetime) -> None:
        """It goes out to this address; what was sent can be sent again."""
        self._step(self.Sent, {"status": "sent", "sentAt": at.isoformat(), "sentTo": to}, at)

    def accept(self, *, at: datetime) -> None:
        """They take it; nothing is recorded where that is known."""
        self._answer(self.Accepted, ProposalStatus.ACCEPTED, at)

    def decline(self, *, at: datetime, reason: str | None = None) -> None:
        """They do not; nothing is recorded where that is known."""
        self._answer(self.Declined, ProposalStatus.DECLINED, at, declineReason=reason)

    def redraft(self, fields: Mapping[str, Any], *, at: datetime) -> None:
        """Make it a draft that says this; what is not among the fields stays as it is."""
        nothing_yet = dict.fromkeys(("sentAt", "sentTo", "answeredAt", "declineReason"))
        self._step(self.Revised, {**fields, **nothing_yet, "status": "draft"}, at)

    def kept(self) -> frozenset[str]:
        """The status, and what is written where it is no draft."""
        is_draft = self.status == ProposalStatus.DRAFT
        return super().kept() | {"status"} | (frozenset() if is_draft else self.IN_WRITING)

    def _answer(
        self, event: type[EntityStep], status: ProposalStatus, at: datetime, **facts: Any
    ) -> None:
        if self.status != status:
            answered: FieldValues = {"status": status.value, "answeredAt": at.isoformat(), **facts}
            self._step(event, answered, at)
