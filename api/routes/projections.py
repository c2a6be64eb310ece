"""/api/projections: the state of each projection, and jobs on it.

Projections cover all workspaces, so only operators see their positions, lag and jobs, and request
jobs. A tenant sees whether they are current and which of its own entities are parked.
"""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Response
from fastapi.concurrency import run_in_threadpool

from api.dependencies.annotated import JsonBody, Operator, ProjectionReader, ServicesDep
from api.dependencies.request import require_write_capacity
from api.dependencies.services import Services
from api.http.auth import Caller
from api.http.bodies import parse_body
from api.http.conditions import await_position
from api.http.openapi.bodies import request_body
from api.http.openapi.responses import ON_BODY, ON_FIELDS, ON_READ, problems, success
from api.http.responses import json_response
from api.jobs.projection_responses import (
    EXAMPLE_JOB,
    EXAMPLE_OF_TENANT,
    EXAMPLE_PARKED,
    EXAMPLE_PLAN,
    PlannedRebuild,
    ProjectionJob,
    ProjectionJobs,
    ProjectionOfTenant,
    Projections,
    ProjectionState,
    RebuildRequest,
    VerifyRequest,
    plan_as_json,
)
from projections.engine.jobs import requests
from projections.engine.jobs.queue import ProjectionJobKind
from projections.engine.registry import PROJECTIONS
from readmodels import table_definitions
from readmodels.operation.checkpoints import (
    CURRENT_WITHIN_S,
    parked_counts,
    parked_of_workspace,
    report,
)
from runtime import codes
from runtime.errors import ApiError
from runtime.patches import JSON_TYPE

ROUTER = APIRouter(prefix="/api/projections", tags=["operation"])

JOB_ID_MAX_DIGITS = 9


def _projection_name(name: Annotated[str, Path(examples=["accounts"])]) -> str:
    """Dependency: return the name of a projection. Raises 404 (E5002)."""
    if name not in PROJECTIONS:
        raise ApiError(codes.NOT_FOUND, f"There is no projection {name[:100]}.")
    return name


def _job_id(given: Annotated[str, Path(alias="number", examples=["7"])]) -> int:
    """Dependency: return the number of a job. Raises 404 (E5002)."""
    if not (given.isascii() and given.isdecimal() and len(given) <= JOB_ID_MAX_DIGITS):
        raise ApiError(codes.NOT_FOUND)
    return int(given)


ProjectionName = Annotated[str, Depends(_projection_name)]
JobId = Annotated[int, Depends(_job_id)]
MinPosition = Annotated[None, Depends(await_position())]

JOB_REQUESTED = success(
    "Requested; a projector begins within two seconds.",
    ProjectionJob,
    "Location",
    example=EXAMPLE_JOB,
)


@ROUTER.get(
    "",
    operation_id="listProjections",
    summary="Every projection: for operators its position and lag, for tenants if it is current",
    responses={
        200: success(
            "The projections; the example is a tenant's response.",
            Projections,
            example={"items": [EXAMPLE_OF_TENANT]},
        ),
        **problems(*ON_READ),
    },
)
async def list_(services: ServicesDep, caller: ProjectionReader, _: MinPosition) -> Response:
    """`{items}`."""
    return json_response({"items": await _report(services, caller)})


@ROUTER.get(
    "/{name}",
    operation_id="getProjection",
    summary="A projection: for operators its position and lag, for tenants their parked entities",
    responses={
        200: success(
            "The projection; the example is a tenant's response.",
            ProjectionState | ProjectionOfTenant,
            example={**EXAMPLE_OF_TENANT, "parkedEntities": [EXAMPLE_PARKED]},
        ),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def get(
    services: ServicesDep, caller: ProjectionReader, name: ProjectionName, _: MinPosition
) -> Response:
    """For a tenant, `parkedEntities` lists the parked entities of its workspace."""
    found = [each for each in await _report(services, caller) if each["name"] == name]
    if not found:
        raise ApiError(codes.NOT_FOUND, f"The projection {name} is not installed.")
    if caller.is_operator:
        return json_response(found[0])
    async with services.reads.workspace(caller.workspace_id) as connection:
        parked = await parked_of_workspace(connection, name, caller.workspace_id)
    return json_response({**found[0], "parkedEntities": orjson.Fragment(parked)})


@ROUTER.post(
    "/{name}/rebuild",
    operation_id="rebuildProjection",
    summary="Rebuild a projection from the whole log beside the live one, or plan a rebuild",
    status_code=202,
    responses={
        200: success("The plan, if `plan` is true.", PlannedRebuild, example=EXAMPLE_PLAN),
        202: JOB_REQUESTED,
        **problems(
            *(codes.OPERATOR_REQUIRED, codes.NOT_FOUND, codes.PROJECTION_JOB_IN_PROGRESS),
            *(*ON_BODY, *ON_FIELDS),
        ),
    },
    openapi_extra=request_body({JSON_TYPE: (RebuildRequest, {"throttle": 20_000, "plan": True})}),
    dependencies=[Depends(require_write_capacity)],
)
async def rebuild(
    services: ServicesDep, caller: Operator, name: ProjectionName, body: JsonBody
) -> Response:
    """The job; Location shows its progress."""
    request = parse_body(RebuildRequest, body)
    if request.plan:
        async with services.reads.plain() as connection:
            plan = await requests.plan_rebuild(connection, name, table_definitions()[name])
        return json_response(plan_as_json(plan))
    reason = request.reason if request.replace else None
    return await _request_job(services, caller, name, "rebuild", request.throttle, reason)


@ROUTER.post(
    "/{name}/verify",
    operation_id="verifyProjection",
    summary="Compare all rows of a projection with a fresh fold of the log",
    status_code=202,
    responses={
        202: JOB_REQUESTED,
        **problems(
            *(codes.OPERATOR_REQUIRED, codes.NOT_FOUND, codes.PROJECTION_JOB_IN_PROGRESS),
            *(*ON_BODY, *ON_FIELDS),
        ),
    },
    openapi_extra=request_body({JSON_TYPE: (VerifyRequest, {"throttle": 20_000})}),
    dependencies=[Depends(require_write_capacity)],
)
async def verify(
    services: ServicesDep, caller: Operator, name: ProjectionName, body: JsonBody
) -> Response:
    """The job. It fails if rows differ; the projector's log names them."""
    request = parse_body(VerifyRequest, body)
    return await _request_job(services, caller, name, "verify", request.throttle)


@ROUTER.post(
    "/{name}/rollback",
    operation_id="rollBackProjection",
    summary="Swap the tables from before the last rebuild back in, after they have caught up",
    status_code=202,
    responses={
        202: JOB_REQUESTED,
        **problems(
            *(
                codes.OPERATOR_REQUIRED,
                codes.NOT_FOUND,
                codes.PROJECTION_JOB_IN_PROGRESS,
                codes.NO_PREVIOUS_TABLES,
            ),
        ),
    },
    dependencies=[Depends(require_write_capacity)],
)
async def roll_back(services: ServicesDep, caller: Operator, name: ProjectionName) -> Response:
    """The job; Location shows its progress."""
    return await _request_job(services, caller, name, "rollback")


@ROUTER.post(
    "/{name}/retry",
    operation_id="retryParked",
    summary="Replay the parked entities of a projection, and compare each with a fresh fold",
    status_code=202,
    responses={
        202: JOB_REQUESTED,
        **problems(codes.OPERATOR_REQUIRED, codes.NOT_FOUND, codes.PROJECTION_JOB_IN_PROGRESS),
    },
    dependencies=[Depends(require_write_capacity)],
)
async def retry(services: ServicesDep, caller: Operator, name: ProjectionName) -> Response:
    """The job; its `message` says how many entities were recovered."""
    return await _request_job(services, caller, name, "retry")


@ROUTER.get(
    "/{name}/rebuilds",
    operation_id="listRebuilds",
    summary="The latest jobs on a projection, newest first",
    responses={
        200: success("The jobs.", ProjectionJobs, example={"items": [EXAMPLE_JOB]}),
        **problems(codes.OPERATOR_REQUIRED, codes.NOT_FOUND, *ON_READ),
    },
)
async def list_jobs(
    services: ServicesDep, _caller: Operator, name: ProjectionName, _: MinPosition
) -> Response:
    """`{items}`, at most fifty, rollbacks and retries included."""
    async with services.reads.plain() as connection:
        items = await requests.load_latest_jobs(connection, name)
    return json_response({"items": orjson.Fragment(items)})


@ROUTER.get(
    "/{name}/rebuilds/{number}",
    operation_id="getRebuild",
    summary="The progress of a job on a projection",
    responses={
        200: success("The job.", ProjectionJob, example=EXAMPLE_JOB),
        **problems(codes.OPERATOR_REQUIRED, codes.NOT_FOUND, *ON_READ),
    },
)
async def get_job(
    services: ServicesDep,
    _caller: Operator,
    name: ProjectionName,
    job_id: JobId,
    _: MinPosition,
) -> Response:
    """State, progress and outcome."""
    return json_response(await _load_job(services, name, job_id))


@ROUTER.post(
    "/{name}/rebuilds/{number}/cancel",
    operation_id="cancelRebuild",
    summary="Cancel a job; the live tables stay as they are",
    status_code=202,
    responses={
        202: success(
            "Cancellation requested.",
            ProjectionJob,
            example={**EXAMPLE_JOB, "state": "cancelling"},
        ),
        **problems(codes.OPERATOR_REQUIRED, codes.NOT_FOUND, codes.PROJECTION_JOB_ENDED),
    },
    dependencies=[Depends(require_write_capacity)],
)
async def cancel(
    services: ServicesDep, _caller: Operator, name: ProjectionName, job_id: JobId
) -> Response:
    """The job. It ends as `cancelled`, or as `done` if it finishes first."""
    await _load_job(services, name, job_id)

    def request() -> None:
        with services.writes.connection() as connection:
            requests.request_cancellation(connection, name, job_id)

    await run_in_threadpool(request)
    return json_response(await _load_job(services, name, job_id), 202)


async def _report(services: Services, caller: Caller) -> list[dict[str, Any]]:
    """Return what this caller may see of each projection."""
    async with services.reads.plain() as connection:
        items = await report(connection)
    if caller.is_operator:
        return items
    async with services.reads.workspace(caller.workspace_id) as connection:
        parked = await parked_counts(connection, caller.workspace_id)
    # Positions, lag and counts of all workspaces would reveal how much others write.
    return [
        {
            "name": each["name"],
            "isCurrent": each["lagSeconds"] < CURRENT_WITHIN_S,
            "parked": parked.get(each["name"], 0),
        }
        for each in items
    ]


async def _request_job(
    services: Services,
    caller: Caller,
    name: str,
    kind: ProjectionJobKind,
    throttle_events_per_s: float | None = None,
    replace_because: str | None = None,
) -> Response:
    """Request a job. Raises 409 (E5020) if another one is in progress."""

    def request() -> int:
        with services.writes.connection() as connection:
            return requests.request_job(
                connection,
                name,
                kind,
                table_definitions()[name],
                requested_by=f"key {caller.key_id}",
                throttle_events_per_s=throttle_events_per_s,
                replace_because=replace_because,
            )

    job_id = await run_in_threadpool(request)
    location = f"/api/projections/{name}/rebuilds/{job_id}"
    content = await _load_job(services, name, job_id)
    return json_response(content, 202, headers={"Location": location})


async def _load_job(services: Services, name: str, job_id: int) -> bytes:
    """Return the job as JSON. Raises 404 (E5002)."""
    async with services.reads.plain() as connection:
        found = await requests.load_job(connection, name, job_id)
    if found is None:
        raise ApiError(codes.NOT_FOUND)
    return found
