"""/api/bookings: appointments as clients of older days know them."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Response

from api.dependencies.idempotency import Executor
from api.dependencies.request import require_write_capacity
from api.entities.routes import ServicesDep
from api.http.auth import Caller, Permission, require_permission
from api.http.bodies import Body, body_of, checked
from api.http.conditions import position_header
from api.http.openapi import (
    EXAMPLE_ID,
    EXAMPLE_TIME,
    ON_BODY,
    ON_FIELDS,
    ON_WRITE,
    body,
    problems,
    success,
)
from api.http.problems import WITH_SUCCESS_FLAG
from api.routes.appointments import Confirmation, confirm
from domain.appointment import Appointment
from eventlog.scope import Scope
from runtime import codes
from runtime.patches import JSON_TYPE

ROUTER = APIRouter(prefix="/api/bookings", tags=["appointments"])

CONFIRMED: dict[str, Any] = {
    "id": EXAMPLE_ID,
    "status": "confirmed",
    "confirmed_at": EXAMPLE_TIME,
    "confirmed_by": "Ada Lovelace",
}


class BookingConfirmation(Confirmation):
    """Which appointment is confirmed, by whom, and whether whoever has booked is to be told."""

    appointment_id: UUID


@ROUTER.post(
    "/confirm",
    operation_id="confirmBooking",
    summary="Confirm an appointment",
    responses={
        200: success(
            "Confirmed.",
            None,
            "Annals-Position",
            example={"success": True, "appointment": CONFIRMED},
        ),
        **problems(
            *(*ON_BODY, *ON_WRITE, *ON_FIELDS, codes.NOT_FOUND, codes.IS_DELETED),
            *(codes.TRANSITION_REFUSED, codes.ALREADY_CONFIRMED),
        ),
    },
    openapi_extra={
        **body(
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
    _caller: Annotated[Caller, Depends(require_permission(Permission.WRITE))],
    given: Annotated[Body, Depends(body_of(JSON_TYPE))],
    executor: Executor,
) -> Response:
    """As `POST /api/appointments/{id}/confirm`; a second time is 409 `ALREADY_CONFIRMED`."""

    def act(scope: Scope) -> Response:
        asked = checked(BookingConfirmation, given)
        outcome = services.commands.act(
            scope, Appointment, asked.appointment_id, lambda one, at: confirm(one, asked, at)
        )
        facts = outcome.entity.values
        content = {
            "success": True,
            "appointment": {
                "id": outcome.entity.id,
                "status": facts["status"],
                "confirmed_at": facts["confirmedAt"],
                "confirmed_by": facts["confirmedBy"],
            },
        }
        headers = position_header(outcome)
        return Response(orjson.dumps(content), media_type=JSON_TYPE, headers=headers)

    return executor.run(act, given)
