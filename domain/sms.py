"""SMS: a text message to a lead, sent through a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from string import Formatter
from types import MappingProxyType
from typing import Annotated, ClassVar
from uuid import UUID

from eventsourcing.domain import AggregateEvent
from pydantic import Field, StringConstraints

from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityRestored,
    EntityStatusChanged,
    EntityUpdated,
)
from domain.shared.fields import Choice, Fields, Line, Text
from domain.shared.properties import optional, required
from domain.shared.refusals import Refusal

MESSAGE_MAX_CHARS = 1_600
"""The longest message that gateways accept: ten parts."""


class SmsStatus(Choice):
    """In the order of precedence: a later status replaces an earlier one, never the reverse."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    UNDELIVERED = "undelivered"
    DELIVERED = "delivered"


STATUS_PRECEDENCE = tuple(SmsStatus)
"""Receipts may arrive late, twice and in any order. A status is only replaced by one after it in
this list, so that every order of receipts ends in the same status. `delivered` comes after
`failed`, because a message may have been delivered although the gateway's answer was lost."""


class TemplateId(Choice):
    APPOINTMENT_CONFIRMATION = "appointment_confirmation"
    FOLLOW_UP = "follow_up"
    PAYMENT_REMINDER = "payment_reminder"


TEMPLATES: Mapping[TemplateId, str] = MappingProxyType(
    {
        TemplateId.APPOINTMENT_CONFIRMATION: (
            "Hello {name}, your appointment on {date} at {time} is confirmed."
        ),
        TemplateId.FOLLOW_UP: "Hello {name}, {message}",
        TemplateId.PAYMENT_REMINDER: (
            "Hello {name}, this is a reminder that {amount} is due on {dueDate}."
        ),
    }
)


@dataclass
class VariableMissing(Refusal):
    """Variables of the template were not given."""

    template_id: str
    variables: list[str]

    def __str__(self) -> str:
        return f"The template {self.template_id} needs {', '.join(self.variables)}."


@dataclass
class VariableUnknown(Refusal):
    """Variables were given that the template does not have."""

    template_id: str
    variables: list[str]

    def __str__(self) -> str:
        return f"The template {self.template_id} has no variable {', '.join(self.variables)}."


@dataclass
class LeadOptedOut(Refusal):
    """The lead has opted out of text messages."""

    lead_id: UUID


@dataclass
class LeadHasNoPhone(Refusal):
    """The lead has no phone number."""

    lead_id: UUID


@dataclass
class NoRecipient(Refusal):
    """The appointment has no lead or is no longer confirmed."""

    appointment_id: UUID


@dataclass
class LeadDailyLimitReached(Refusal):
    """The lead has received the maximum number of messages a day."""

    lead_id: UUID
    daily_max: int


@dataclass
class WorkspaceDailyLimitReached(Refusal):
    """The workspace has sent the maximum number of messages a day."""

    daily_max: int


def variables_of(template_id: TemplateId) -> frozenset[str]:
    """The names of the template's variables."""
    return frozenset(name for _, name, _, _ in Formatter().parse(TEMPLATES[template_id]) if name)


def render(template_id: TemplateId, variables: Mapping[str, str]) -> str:
    """The template's text with these variables. Raises `VariableMissing`, `VariableUnknown`."""
    names = variables_of(template_id)
    if missing := sorted(names - variables.keys()):
        raise VariableMissing(template_id, missing)
    if unknown := sorted(variables.keys() - names):
        raise VariableUnknown(template_id, unknown)
    return TEMPLATES[template_id].format_map(variables)


class SmsFields(Fields):
    lead_id: UUID
    phone: str = Field(pattern=r"^\+[1-9][0-9]{1,14}$", description="In E.164.")
    message: Annotated[Text, StringConstraints(max_length=MESSAGE_MAX_CHARS)]
    template_id: TemplateId | None = None
    status: SmsStatus = SmsStatus.PENDING
    gateway_id: Line | None = Field(default=None, description="The message's id at the gateway.")
    error: Line | None = Field(default=None, description="Why it was not sent or not delivered.")
    error_code: Line | None = Field(default=None, description="The gateway's code for it.")


class Sms(Entity):
    """A text message to a lead. Undo only reverses that it was deleted or restored.

    Decisions, and when they are refused:

    create: a field is invalid (`InvalidFields`).
    record_status: a field is invalid (`InvalidFields`). A status that is not after the present one
        in `STATUS_PRECEDENCE` changes neither status nor error.
    revise, change_status: as create, or `TRANSITIONS` lacks the new status (`TransitionRefused`).
    delete, restore, undo_delete: never. Repeating one records nothing.
    revert: a field is no longer valid (`InvalidFields`). Undo, which would call it, is refused.

    A deleted message refuses all but delete, restore and undo_delete (`IsDeleted`). A decision
    dated before the last event is refused (`OccurredTooEarly`). Commands also refuse a message to a
    lead that has opted out (`LeadOptedOut`), has no phone number (`LeadHasNoPhone`), or has
    received the day's maximum (`LeadDailyLimitReached`, `WorkspaceDailyLimitReached`).
    """

    TOPIC = "sms"
    KIND = "sms"
    PLURAL = "sms"
    FIELDS = SmsFields
    STATUS_FIELD = "status"
    TRANSITIONS: ClassVar[Mapping[SmsStatus, frozenset[SmsStatus]]] = {
        status: frozenset(STATUS_PRECEDENCE[place + 1 :])
        for place, status in enumerate(STATUS_PRECEDENCE)
    }

    lead_id = required(UUID)
    phone = required(str)
    message = required(str)
    template_id = optional(str)
    status = required(str)
    gateway_id = optional(str)
    error = optional(str)
    error_code = optional(str)

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "sms.created"
        IS_IRREVERSIBLE = True

    class Updated(Event, EntityUpdated):
        TOPIC = "sms.updated"
        IS_IRREVERSIBLE = True

    class StatusChanged(Event, EntityStatusChanged):
        TOPIC = "sms.status_changed"
        IS_IRREVERSIBLE = True

    class Deleted(Event, EntityDeleted):
        TOPIC = "sms.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "sms.restored"

    def record_status(
        self,
        status: SmsStatus,
        *,
        at: datetime,
        gateway_id: str | None = None,
        error: str | None = None,
        error_code: str | None = None,
    ) -> None:
        """Record what the gateway reports, unless it is already known or older.

        The first gateway id and the error of the present status are kept. Raises as `revise`.
        """
        fields = {"gatewayId": gateway_id, **self.values}
        if status in self.TRANSITIONS[SmsStatus(self.status)]:
            fields |= {"status": status, "error": error, "errorCode": error_code}
        self.revise(fields, at=at)
