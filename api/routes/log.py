"""/api/log/verifications: checks of the whole log, for auditors and operators.

A check compares what every projection consumed with the log, event by event, and what protects the
log with what this version expects. It spans all workspaces: a tenant sees whether the log was found
whole, and operators also see the faults.
"""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from api.dependencies.annotated import ServicesDep, Verifier
from api.dependencies.request import require_write_capacity
from api.dependencies.services import Services
from api.http.auth import Caller
from api.http.conditions import await_position
from api.http.openapi.examples import EXAMPLE_TIME
from api.http.openapi.records import ResponseModel
from api.http.openapi.responses import ON_READ, problems, success
from api.http.responses import json_response
from projections.engine.jobs import requests
from projections.engine.jobs.queue import WHOLE_LOG
from runtime import codes
from runtime.errors import ApiError

ROUTER = APIRouter(prefix="/api/log/verifications", tags=["operation"])

JOB_ID_MAX_DIGITS = 9
SHOWN = (
    *("id", "state", "processed", "total", "secondsLeft", "message"),
    *("requestedAt", "startedAt", "endedAt"),
)
EXAMPLE = {
    "id": 12,
    "state": "done",
    "processed": 200_000,
    "total": 200_000,
    "secondsLeft": None,
    "message": "every projection consumed each event exactly once, and the protections are in"
    " place",
    "requestedAt": EXAMPLE_TIME,
    "startedAt": EXAMPLE_TIME,
    "endedAt": EXAMPLE_TIME,
}


class LogVerification(ResponseModel):
    """A check of the whole log."""

    id: int
    state: str = Field(
        description="`requested` until a projector begins, `building` while it reads; then `done`"
        " if the log was found whole, `failed` if it has faults or could not be checked."
    )
    processed: int = Field(description="Positions of the log that were compared.")
    total: int = Field(description="Positions to compare; 0 until the check has begun.")
    seconds_left: int | None = Field(description="An estimate; null before and after the check.")
    message: str = Field(description="The result; an operator finds the faults in `faults`.")
    faults: list[str] | None = Field(default=None, description="For operators: each fault.")
    requested_at: str
    started_at: str | None
    ended_at: str | None


class LogVerifications(BaseModel):
    """The latest checks."""

    items: list[LogVerification]


def _check_id(given: Annotated[str, Path(alias="number", examples=["12"])]) -> int:
    """Dependency: return the number of a check. Raises 404 (E5002)."""
    if not (given.isascii() and given.isdecimal() and len(given) <= JOB_ID_MAX_DIGITS):
        raise ApiError(codes.NOT_FOUND)
    return int(given)


MinPosition = Annotated[None, Depends(await_position())]


@ROUTER.post(
    "",
    operation_id="verifyLog",
    summary="Check the whole log: each event consumed once, nothing altered, protections in place",
    status_code=202,
    responses={
        202: success(
            "Requested, or the check that is under way or ended a short time ago: a minute, or for"
            " a tenant nine times as long as it took if that is more.",
            LogVerification,
            "Location",
            example=EXAMPLE
            | {"state": "requested", "processed": 0, "total": 0, "message": "", "endedAt": None},
        ),
        **problems(),
    },
    dependencies=[Depends(require_write_capacity)],
)
async def verify(services: ServicesDep, caller: Verifier) -> Response:
    """The check; Location shows its result."""

    def request() -> int:
        with services.writes.connection() as connection:
            return requests.request_log_check(
                connection, requested_by=f"key {caller.key_id}", is_operator=caller.is_operator
            )

    number = await run_in_threadpool(request)
    content = await _load(services, caller, number)
    return json_response(content, 202, headers={"Location": f"{ROUTER.prefix}/{number}"})


@ROUTER.get(
    "",
    operation_id="listLogVerifications",
    summary="The latest checks of the log, newest first",
    responses={
        200: success("The checks.", LogVerifications, example={"items": [EXAMPLE]}),
        **problems(*ON_READ),
    },
)
async def list_(services: ServicesDep, caller: Verifier, _: MinPosition) -> Response:
    """`{items}`, at most fifty."""
    async with services.reads.plain() as connection:
        found = orjson.loads(await requests.load_latest_jobs(connection, WHOLE_LOG))
    return json_response({"items": [_shown(each, caller) for each in found]})


@ROUTER.get(
    "/{number}",
    operation_id="getLogVerification",
    summary="A check of the log: its state and result",
    responses={
        200: success("The check.", LogVerification, example=EXAMPLE),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def get(
    services: ServicesDep,
    caller: Verifier,
    number: Annotated[int, Depends(_check_id)],
    _: MinPosition,
) -> Response:
    """State and result."""
    return json_response(await _load(services, caller, number))


async def _load(services: Services, caller: Caller, number: int) -> dict[str, Any]:
    """Return the check as this caller may see it. Raises 404 (E5002)."""
    async with services.reads.plain() as connection:
        found = await requests.load_job(connection, WHOLE_LOG, number)
    if found is None:
        raise ApiError(codes.NOT_FOUND)
    return _shown(orjson.loads(found), caller)


def _shown(job: dict[str, Any], caller: Caller) -> dict[str, Any]:
    shown = {name: job[name] for name in SHOWN}
    if caller.is_operator:
        shown["faults"] = job["details"].splitlines()
    return shown
