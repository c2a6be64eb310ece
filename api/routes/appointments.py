"""/api/appointments, with the steps that an appointment goes through."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, Field

from api.entities.actions import EntityAction, Given, Nothing, add_action_routes
from api.entities.routes import entity_routes
from api.http.openapi import EXAMPLE_ID, EXAMPLE_TIME
from domain.appointment import DURATION_MAX_MINUTES, Appointment
from domain.shared.fields import Line, Text
from runtime import codes

EXAMPLE: dict[str, Any] = {
    "title": "First call",
    "memberId": EXAMPLE_ID,
    "startsAt": EXAMPLE_TIME,
    "durationMinutes": 30,
}
SHOWN: dict[str, Any] = {
    **{name: value for name, value in EXAMPLE.items() if name != "durationMinutes"},
    "endsAt": EXAMPLE_TIME,
    "status": "scheduled",
}


class Confirmation(Given):
    """Who confirms, and whether whoever has booked is to be told."""

    confirmed_by: Line = Field(examples=["Ada Lovelace"])
    notes: Text | None = None
    notify: bool = Field(default=False, description="Send the confirmation by SMS.")


class OtherTime(Given):
    """Where it is to be moved; what is left out stays, the duration too."""

    starts_at: AwareDatetime
    ends_at: AwareDatetime | None = None
    duration_minutes: int | None = Field(default=None, ge=1, le=DURATION_MAX_MINUTES, strict=True)
    member_id: UUID | None = None
    allow_overlap: bool | None = None


class Cancellation(Given):
    """Why it will not take place."""

    reason: Line | None = None


def confirm(appointment: Appointment, given: Confirmation, at: datetime) -> None:
    """Decide on a confirmation."""
    appointment.confirm(given.confirmed_by, at=at, notes=given.notes, notify=given.notify)


def _reschedule(appointment: Appointment, given: OtherTime, at: datetime) -> None:
    appointment.reschedule(given.model_dump(mode="json", by_alias=True), at=at)


ROUTER = entity_routes(Appointment, example=EXAMPLE, reads=("accounts",))

add_action_routes(
    ROUTER,
    Appointment,
    EntityAction(
        name="confirm",
        summary="Confirm an appointment",
        decide=confirm,
        given=Confirmation,
        example={"confirmedBy": "Ada Lovelace", "notify": True},
        refusals=(codes.ALREADY_CONFIRMED,),
        shows={"status": "confirmed", "confirmedAt": EXAMPLE_TIME, "confirmedBy": "Ada Lovelace"},
    ),
    EntityAction(
        name="reschedule",
        summary="Move an appointment, which then has to be confirmed again",
        decide=_reschedule,
        given=OtherTime,
        example={"startsAt": EXAMPLE_TIME},
        refusals=(codes.TIME_TAKEN,),
    ),
    EntityAction(
        name="cancel",
        summary="Cancel an appointment: the time is free again",
        decide=lambda appointment, given, at: appointment.cancel(at=at, reason=given.reason),
        given=Cancellation,
        example={"reason": "Ill"},
        shows={"status": "cancelled", "cancelReason": "Ill"},
    ),
    EntityAction(
        name="complete",
        summary="Say that an appointment took place",
        decide=lambda appointment, given, at: appointment.complete(at=at),
        given=Nothing,
        shows={"status": "completed"},
    ),
    EntityAction(
        name="miss",
        path="no-show",
        summary="Say that nobody came to an appointment",
        decide=lambda appointment, given, at: appointment.miss(at=at),
        given=Nothing,
        shows={"status": "no_show"},
    ),
    example=SHOWN,
)
