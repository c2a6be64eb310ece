"""Proposal: a written offer to an account."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
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
    Choice,
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
from domain.shared.properties import optional, required


class ProposalStatus(Choice):
    DRAFT = "draft"
    SENT = "sent"
    ACCEPTED = "accepted"
    DECLINED = "declined"


class ProposalFields(Fields):
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

    The content of a sent proposal is read-only. `redraft` makes the proposal a draft again, which
    is possible until it is accepted.

    Decisions, and when they are refused:

    create: no account is given (`AccountUnavailable`), or a field is invalid or is one that only
        the steps below set, or the status is not draft (`InvalidFields`).
    revise: a field is invalid or read-only (`InvalidFields`). The status is read-only, as is the
        content unless the proposal is a draft.
    change_status: the status would change (`InvalidFields`); only the steps below change it.
    send: the address is invalid (`InvalidFields`), or the proposal was accepted or declined
        (`TransitionRefused`). A sent proposal can be sent again.
    accept, decline: it was not sent, or has the other answer (`TransitionRefused`).
    redraft: it was accepted (`TransitionRefused`), or a new field is invalid (`InvalidFields`).
    delete, restore, undo_delete: never. Repeating one records nothing.
    begin_move, complete_move: never. A merge of accounts moves their proposals by both.
    revert: a field is no longer valid (`InvalidFields`). Used by undo; ignores `TRANSITIONS`.

    A deleted proposal refuses all but delete, restore, undo_delete and complete_move
    (`IsDeleted`). A decision dated before the last event is refused (`OccurredTooEarly`). Commands
    also refuse an account (`AccountUnavailable`) or opportunity (`ReferenceUnavailable`) that does
    not exist or is deleted, and an assignee who is not a member of the workspace (`NotAMember`).
    """

    TOPIC = "proposal"
    KIND = "proposal"
    PLURAL = "proposals"
    FIELDS = ProposalFields
    IS_IMPORTABLE = True
    SEARCH_FIELDS = ("title",)
    STATUS_FIELD = "status"
    TRANSITIONS: ClassVar[Mapping[ProposalStatus, frozenset[ProposalStatus]]] = {
        ProposalStatus.DRAFT: frozenset({ProposalStatus.SENT}),
        ProposalStatus.SENT: frozenset(ProposalStatus) - {ProposalStatus.SENT},
        ProposalStatus.DECLINED: frozenset({ProposalStatus.DRAFT}),
    }
    STATUSES_OF_COMMANDS = frozenset(ProposalStatus) - {ProposalStatus.DRAFT}
    BELONGS_TO_ACCOUNT = True
    ACCOUNT_REQUIRED = True
    REFERENCES: ClassVar[Mapping[str, str]] = {"opportunityId": "opportunity"}
    CONTENT = frozenset({"title", "body", "value", "validUntil"})

    title = required(str)
    status = required(str)
    body = optional(str)
    value = optional(Decimal)
    valid_until = optional(date.fromisoformat)
    opportunity_id = optional(UUID)
    sent_at = optional(datetime.fromisoformat)
    sent_to = optional(str)
    answered_at = optional(datetime.fromisoformat)
    decline_reason = optional(str)

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
        """Send the proposal to this e-mail address; a sent proposal can be sent again."""
        self._record_step(self.Sent, {"status": "sent", "sentAt": at.isoformat(), "sentTo": to}, at)

    def accept(self, *, at: datetime) -> None:
        """Record that the account accepted; a second acceptance records nothing."""
        self._answer(self.Accepted, ProposalStatus.ACCEPTED, at)

    def decline(self, *, at: datetime, reason: str | None = None) -> None:
        """Record that the account declined; declining again records nothing."""
        self._answer(self.Declined, ProposalStatus.DECLINED, at, declineReason=reason)

    def redraft(self, fields: Mapping[str, Any], *, at: datetime) -> None:
        """Make the proposal a draft again and set these fields; other content stays."""
        cleared = dict.fromkeys(("sentAt", "sentTo", "answeredAt", "declineReason"))
        self._record_step(self.Revised, {**fields, **cleared, "status": "draft"}, at)

    def read_only(self) -> frozenset[str]:
        """The status, and the content unless the proposal is a draft."""
        is_draft = self.status == ProposalStatus.DRAFT
        return super().read_only() | {"status"} | (frozenset() if is_draft else self.CONTENT)

    def _answer(
        self, event: type[EntityStep], status: ProposalStatus, at: datetime, **fields: Any
    ) -> None:
        self.require_not_deleted()
        if self.status != status:
            answer: FieldValues = {"status": status.value, "answeredAt": at.isoformat(), **fields}
            self._record_step(event, answer, at)
