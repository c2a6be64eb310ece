"""Text message: asked for, handed to a gateway, and maybe delivered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from string import Formatter
from types import MappingProxyType
from typing import Annotated, Any, ClassVar
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
from domain.shared.fields import Fields, Line, Text
from domain.shared.refusals import Refusal

MESSAGE_MAX_CHARS = 1_600
"""Ten parts of a long message; what gateways take at the most."""


class SmsStatus(StrEnum):
    """From what says least to what says most."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    UNDELIVERED = "undelivered"
    DELIVERED = "delivered"


STATUS_PRECEDENCE = tuple(SmsStatus)
"""News come late, twice and in any order. A status gives way to those after it and to no other, so
all orders end alike. What was given up may have been taken, its answer lost: delivered last."""


class TemplateId(StrEnum):
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
    """The template has variables that were not given."""

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
        return f"The template {self.template_id} has no {', '.join(self.variables)}."


@dataclass
class LeadOptedOut(Refusal):
    """The lead wants no text messages."""

    lead_id: UUID


@dataclass
class LeadHasNoPhone(Refusal):
    """The lead has no telephone number."""

    lead_id: UUID


@dataclass
class NoRecipient(Refusal):
    """The appointment has no lead, or is not confirmed any more."""

    appointment_id: UUID


@dataclass
class LeadDailyLimitReached(Refusal):
    """The lead has got as many messages as it may in a day."""

    lead_id: UUID
    daily_max: int


@dataclass
class WorkspaceDailyLimitReached(Refusal):
    """The workspace has sent as many messages as it may in a day."""

    daily_max: int


def variables_of(template_id: TemplateId) -> frozenset[str]:
    """The names that a template needs."""
    return frozenset(name for _, name, _, _ in Formatter().parse(TEMPLATES[template_id]) if name)


def render(template_id: TemplateId, variables: Mapping[str, str]) -> str:
    """The template's text, filled in. Raises `VariableMissing`, `VariableUnknown`."""
    wanted = variables_of(template_id)
    if missing := sorted(wanted - variables.keys()):
        raise VariableMissing(template_id, missing)
    if unknown := sorted(variables.keys() - wanted):
        raise VariableUnknown(template_id, unknown)
    return TEMPLATES[template_id].format_map(variables)


class SmsFields(Fields):
    lead_id: UUID
    phone: str = Field(pattern=r"^\+[1-9][0-9]{1,14}$", description="In E.164.")
    message: Annotated[Text, StringConstraints(max_length=MESSAGE_MAX_CHARS)]
    template_id: TemplateId | None = None
    status: SmsStatus = SmsStatus.PENDING
    gateway_id: Line | None = Field(default=None, description="What the gateway calls it.")
    error: Line | None = Field(default=None, description="Why it was not sent or not delivered.")
    error_code: Line | None = Field(default=None, description="The same, as the gateway has it.")


class Sms(Entity):
    """It has left the house, or is about to: nothing that happens to it can be undone."""

    TOPIC = "sms"
    KIND = "sms"
    PLURAL = "sms"
    FIELDS = SmsFields
    STATUS_FIELD = "status"
    TRANSITIONS: ClassVar[Any] = {
        status: frozenset(STATUS_PRECEDENCE[place + 1 :])
        for place, status in enumerate(STATUS_PRECEDENCE)
    }

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
        """What is heard of it. What says less than is known already, or the same, changes nothing.

        Raises `IsDeleted`.
        """
        fields = {"gatewayId": gateway_id, **self.values}
        if status in self.TRANSITIONS[SmsStatus(self.values["status"])]:
            fields |= {"status": status, "error": error, "errorCode": error_code}
        self.revise(fields, at=at)
