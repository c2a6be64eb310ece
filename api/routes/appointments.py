"""/api/appointments, with the actions on an appointment."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, Field

from api.entities.actions import EntityAction, Nothing, add_action_routes
from api.entities.routes import entity_routes
from api.http.bodies import RequestModel
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from domain.appointment import DURATION_MAX_MINUTES, Appointment
from domain.shared.fields import Line, Text
from runtime import codes

EXAMPLE: dict[str, Any] = {
    "title": "First call",
    "memberId": EXAMPLE_ID,
    "startsAt": EXAMPLE_TIME,
    "endsAt": "2026-01-31T12:30:00+00:00",
}


class AppointmentConfirmation(RequestModel):
    """Who confirms, and whether to notify the lead."""

    confirmed_by: Line = Field(examples=["Ada Lovelace"])
    notes: Text | None = None
    notify: bool = Field(default=False, description="Send the confirmation by SMS.")


class AppointmentRescheduling(RequestModel):
    """The new time. Omitted members stay as they are, the duration included."""

    starts_at: AwareDatetime
    ends_at: AwareDatetime | None = None
    duration_minutes: int | None = Field(default=None, ge=1, le=DURATION_MAX_MINUTES, strict=True)
    member_id: UUID | None = None
    allow_overlap: bool | None = None


class AppointmentCancellation(RequestModel):
    """Why the appointment will not take place."""

    reason: Line | None = None


def confirm(appointment: Appointment, body: AppointmentConfirmation, at: datetime) -> None:
    """Decide on a confirmation."""
    appointment.confirm(body.confirmed_by, at=at, notes=body.notes, notify=body.notify)


def _reschedule(appointment: Appointment, body: AppointmentRescheduling, at: datetime) -> None:
    appointment.reschedule(body.model_dump(mode="json", by_alias=True), at=at)


ROUTER = entity_routes(Appointment, example=EXAMPLE, reads=("accounts",))

add_action_routes(
    ROUTER,
    Appointment,
    EntityAction(
        name="confirm",
        summary="Confirm an appointment",
        decide=confirm,
        body=AppointmentConfirmation,
        example={"confirmedBy": "Ada Lovelace", "notify": True},
        refusals=(codes.ALREADY_CONFIRMED,),
        shows={"status": "confirmed", "confirmedAt": EXAMPLE_TIME, "confirmedBy": "Ada Lovelace"},
    ),
    EntityAction(
        name="reschedule",
        summary="Move an appointment to another time; it has to be confirmed again",
        decide=_reschedule,
        body=AppointmentRescheduling,
        example={"startsAt": EXAMPLE_TIME},
        refusals=(codes.TIME_TAKEN,),
    ),
    EntityAction(
        name="cancel",
        summary="Cancel an appointment, which frees its time",
        decide=lambda appointment, body, at: appointment.cancel(at=at, reason=body.reason),
        body=AppointmentCancellation,
        example={"reason": "Ill"},
        shows={"status": "cancelled", "cancelReason": "Ill"},
    ),
    EntityAction(
        name="complete",
        summary="Record that an appointment took place",
        decide=lambda appointment, body, at: appointment.complete(at=at),
        body=Nothing,
        shows={"status": "completed"},
    ),
    EntityAction(
        name="miss",
        path="no-show",
        summary="Record that the other party did not come to an appointment",
        decide=lambda appointment, body, at: appointment.miss(at=at),
        body=Nothing,
        shows={"status": "no_show"},
    ),
    example=EXAMPLE,
)
