"""/api/bookings: the confirmation of appointments in the form that older clients use."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel

from api.dependencies.annotated import Executor, JsonBody, ServicesDep, Versions, Writer
from api.dependencies.request import require_write_capacity
from api.http.bodies import parse_body
from api.http.conditions import with_if_match
from api.http.openapi.bodies import request_body
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.responses import ON_BODY, ON_FIELDS, ON_VERSION, ON_WRITE, problems, success
from api.http.problems import WITH_SUCCESS_FLAG
from api.http.responses import json_response
from api.routes.appointments import AppointmentConfirmation, confirm
from domain.appointment import Appointment, AppointmentStatus
from eventlog.scope import Scope
from runtime import codes
from runtime.patches import JSON_TYPE

ROUTER = APIRouter(prefix="/api/bookings", tags=["appointments"])

EXAMPLE_APPOINTMENT: dict[str, Any] = {
    "id": EXAMPLE_ID,
    "status": "confirmed",
    "confirmed_at": EXAMPLE_TIME,
    "confirmed_by": "Ada Lovelace",
}


class BookingConfirmation(AppointmentConfirmation):
    """The appointment, who confirms it, and whether to notify the lead."""

    appointment_id: UUID


class ConfirmedBooking(BaseModel):
    """An appointment that was confirmed."""

    id: UUID
    status: AppointmentStatus
    confirmed_at: datetime
    confirmed_by: str


class BookingConfirmed(BaseModel):
    """The appointment was confirmed."""

    success: Literal[True]
    appointment: ConfirmedBooking


@ROUTER.post(
    "/confirm",
    operation_id="confirmBooking",
    summary="Confirm an appointment",
    responses={
        200: success(
            "Confirmed.",
            BookingConfirmed,
            *("ETag", "Annals-Position"),
            example={"success": True, "appointment": EXAMPLE_APPOINTMENT},
        ),
        **problems(
            *(*ON_BODY, *ON_WRITE, *ON_FIELDS, codes.NOT_FOUND, codes.IS_DELETED),
            *(codes.TRANSITION_REFUSED, codes.ALREADY_CONFIRMED, *ON_VERSION),
        ),
    },
    openapi_extra={
        **request_body(
            {
                JSON_TYPE: (
                    BookingConfirmation,
                    {"appointmentId": EXAMPLE_ID, "confirmedBy": "Ada Lovelace", "notes": "Thanks"},
                )
            }
        ),
        **WITH_SUCCESS_FLAG,
    },
    dependencies=[Depends(require_write_capacity)],
)
def confirm_booking(
    services: ServicesDep,
    _caller: Writer,
    versions: Versions,
    body: JsonBody,
    executor: Executor,
) -> Response:
    """As `POST /api/appointments/{id}/confirm`. Confirming again is 409 `ALREADY_CONFIRMED`."""

    def act(scope: Scope) -> Response:
        request = parse_body(BookingConfirmation, body)
        decide = partial(
            services.commands.act,
            scope,
            Appointment,
            request.appointment_id,
            lambda appointment, at: confirm(appointment, request, at),
        )
        outcome = with_if_match(versions, lambda version: decide(expected_version=version))
        values = outcome.entity.values
        content = {
            "success": True,
            "appointment": {
                "id": outcome.entity.id,
                "status": values["status"],
                "confirmed_at": values["confirmedAt"],
                "confirmed_by": values["confirmedBy"],
            },
        }
        return json_response(content, version=outcome.entity.version, position=outcome.position)

    return executor.run(act, body)
