"""/api/projections: how far each projection is, and what can be done to it.

Projections are of all workspaces at once. Admins may act on them, and no answer tells anything of
another workspace's data: parked entities are shown to their own workspace, counts to everybody.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Path, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from api.dependencies.request import require_write_capacity
from api.dependencies.services import Services
from api.entities.routes import ServicesDep
from api.http.auth import Caller, Permission, require_permission
from api.http.bodies import Body, body_of, checked
from api.http.conditions import await_position
from api.http.openapi import (
    EXAMPLE_ID,
    EXAMPLE_TIME,
    ON_BODY,
    ON_FIELDS,
    ON_READ,
    body,
    problems,
    success,
)
from projections.engine.rebuild.jobs import ProjectionJobKind
from projections.engine.rebuild.runner import RebuildPlan
from projections.engine.registry import PROJECTIONS
from readmodels.checkpoints import parked_of_workspace, report
from runtime import codes
from runtime import projection_jobs as jobs
from runtime.errors import ApiError
from runtime.patches import JSON_TYPE

ROUTER = APIRouter(prefix="/api/projections", tags=["operation"])

JOB_ID_MAX_DIGITS = 9
EVENTS_PER_S_MAX = 10_000_000

EXAMPLE = {
    "name": "accounts",
    "version": "3f2a9c01b7de",
    "wantedVersion": "3f2a9c01b7de",
    "state": "live",
    "position": 1200,
    "lagEvents": 0,
    "lagSeconds": 0,
    "idleSeconds": 3.2,
    "parked": 1,
    "faults": 0,
}
EXAMPLE_PARKED = {
    "entityId": EXAMPLE_ID,
    "position": 1100,
    "events": 2,
    "error": "ValueError: cannot digest",
    "parkedAt": EXAMPLE_TIME,
}
EXAMPLE_JOB = {
    "id": 7,
    "projection": "accounts",
    "kind": "rebuild",
    "state": "building",
    "processed": 250_000,
    "total": 1_000_000,
    "ratePerSecond": 50_000.0,
    "secondsLeft": 15,
    "throttle": None,
    "message": "",
    "requestedAt": EXAMPLE_TIME,
    "startedAt": EXAMPLE_TIME,
    "endedAt": None,
}
EXAMPLE_PLAN = {
    "projection": "accounts",
    "events": 1_000_000,
    "seconds": 20.0,
    "bytes": 310_000_000,
    "liveVersion": "3f2a9c01b7de",
    "newVersion": "3f2a9c01b7de",
    "codeChanged": False,
}


class RebuildRequest(BaseModel):
    """How a projection is to be rebuilt."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)

    throttle: float | None = Field(
        default=None,
        ge=1,
        le=EVENTS_PER_S_MAX,
        description="Read no more than this many events a second.",
    )
    plan: bool = Field(default=False, description="Say what would be done, and do nothing.")


class ProjectionJob(BaseModel):
    """Something that is done to a projection, or was."""

    model_config = ConfigDict(alias_generator=to_camel)

    id: int
    projection: str
    kind: str = Field(description="`rebuild`, `rollback` or `retry`.")
    state: str = Field(
        description="`requested` until a projector begins; then the step that it is at;"
        " `cancelling` once it was asked to stop; at last `done`, `failed` or `cancelled`."
    )
    processed: int = Field(description="Events read.")
    total: int = Field(description="Events to read.")
    rate_per_second: float | None = Field(description="Events read a second, on average.")
    seconds_left: int | None
    throttle: float | None
    message: str = Field(description="How it ended. The projector's log says more.")
    requested_at: str
    started_at: str | None
    ended_at: str | None


class ProjectionJobs(BaseModel):
    """The newest jobs of a projection."""

    items: list[ProjectionJob]


def _known(name: Annotated[str, Path(examples=["accounts"])]) -> str:
    """The name of a projection. Raises 404 (E5002)."""
    if name not in PROJECTIONS:
        raise ApiError(codes.NOT_FOUND, f"There is no projection {name[:100]}.")
    return name


def _job_id(given: Annotated[str, Path(alias="id", examples=["7"])]) -> int:
    """The number of a job. Raises 404 (E5002)."""
    if not (given.isascii() and given.isdecimal() and len(given) <= JOB_ID_MAX_DIGITS):
        raise ApiError(codes.NOT_FOUND)
    return int(given)


Reader = Annotated[Caller, Depends(require_permission(Permission.PROJECTIONS))]
Operator = Annotated[Caller, Depends(require_permission(Permission.OPERATE))]
Name = Annotated[str, Depends(_known)]
JobId = Annotated[int, Depends(_job_id)]
Waits = Annotated[None, Depends(await_position())]

ACCEPTED = success(
    "Written down; a projector begins within a second or two.",
    ProjectionJob,
    "Location",
    example=EXAMPLE_JOB,
)


@ROUTER.get(
    "",
    operation_id="listProjections",
    summary="Position and lag of every projection",
    responses={
        200: success("The projections.", example={"items": [EXAMPLE]}),
        **problems(*ON_READ),
    },
)
async def list_(services: ServicesDep, _caller: Reader, _: Waits) -> Response:
    """`{items}`; positions are those of the whole log."""
    async with services.reads.plain() as connection:
        items = await report(connection)
    return _json({"items": items})


@ROUTER.get(
    "/{name}",
    operation_id="getProjection",
    summary="Position and lag of a projection, and what of this workspace is parked in it",
    responses={
        200: success("The projection.", example={**EXAMPLE, "parkedEntities": [EXAMPLE_PARKED]}),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def get(services: ServicesDep, caller: Reader, name: Name, _: Waits) -> Response:
    """`parked` counts the entities of all workspaces, `parkedEntities` are those of this one."""
    async with services.reads.plain() as connection:
        found = [each for each in await report(connection) if each["name"] == name]
    async with services.reads.workspace(caller.workspace_id) as connection:
        parked = await parked_of_workspace(connection, name, caller.workspace_id)
    if not found:
        raise ApiError(codes.NOT_FOUND, f"The projection {name} is not installed.")
    return _json({**found[0], "parkedEntities": orjson.Fragment(parked)})


@ROUTER.post(
    "/{name}/rebuild",
    operation_id="rebuildProjection",
    summary="Rebuild a projection from all of history, beside the live one; or plan it",
    status_code=202,
    responses={
        200: success("The plan, where `plan` is true.", example=EXAMPLE_PLAN),
        202: ACCEPTED,
        **problems(codes.NOT_FOUND, codes.PROJECTION_JOB_IN_PROGRESS, *ON_BODY, *ON_FIELDS),
    },
    openapi_extra=body({JSON_TYPE: (RebuildRequest, {"throttle": 20_000, "plan": True})}),
    dependencies=[Depends(require_write_capacity)],
)
async def rebuild(
    services: ServicesDep,
    caller: Operator,
    name: Name,
    given: Annotated[Body, Depends(body_of(JSON_TYPE))],
) -> Response:
    """The job; its progress is at Location."""
    wanted = checked(RebuildRequest, given)
    if wanted.plan:
        async with services.reads.plain() as connection:
            return _json(_shown(await jobs.plan(connection, name)))
    return await _begun(services, name, "rebuild", caller.key_id, wanted.throttle)


@ROUTER.post(
    "/{name}/rollback",
    operation_id="rollBackProjection",
    summary="Swap back the tables from before the last rebuild, caught up",
    status_code=202,
    responses={
        202: ACCEPTED,
        **problems(codes.NOT_FOUND, codes.PROJECTION_JOB_IN_PROGRESS, codes.NO_PREVIOUS_TABLES),
    },
    dependencies=[Depends(require_write_capacity)],
)
async def roll_back(services: ServicesDep, caller: Operator, name: Name) -> Response:
    """The job; its progress is at Location."""

    def has_previous() -> bool:
        with services.writes.connection() as connection:
            return jobs.has_previous(connection, name)

    if not await run_in_threadpool(has_previous):
        raise ApiError(codes.NO_PREVIOUS_TABLES)
    return await _begun(services, name, "rollback", caller.key_id)


@ROUTER.post(
    "/{name}/retry",
    operation_id="retryParked",
    summary="Replay the parked entities of a projection, and prove each equal to a fresh fold",
    status_code=202,
    responses={202: ACCEPTED, **problems(codes.NOT_FOUND, codes.PROJECTION_JOB_IN_PROGRESS)},
    dependencies=[Depends(require_write_capacity)],
)
async def retry(services: ServicesDep, caller: Operator, name: Name) -> Response:
    """The job; its `message` says how many came back."""
    return await _begun(services, name, "retry", caller.key_id)


@ROUTER.get(
    "/{name}/rebuilds",
    operation_id="listRebuilds",
    summary="The newest jobs on a projection, newest first",
    responses={
        200: success("The jobs.", ProjectionJobs, example={"items": [EXAMPLE_JOB]}),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def list_jobs(services: ServicesDep, _caller: Reader, name: Name, _: Waits) -> Response:
    """`{items}`, fifty at the most; rollbacks and retries among them."""
    async with services.reads.plain() as connection:
        items = await jobs.last_jobs_as_json(connection, name)
    return _json({"items": orjson.Fragment(items)})


@ROUTER.get(
    "/{name}/rebuilds/{id}",
    operation_id="getRebuild",
    summary="How far a job on a projection is",
    responses={
        200: success("The job.", ProjectionJob, example=EXAMPLE_JOB),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def get_job(
    services: ServicesDep, _caller: Reader, name: Name, job_id: JobId, _: Waits
) -> Response:
    """State, progress, and how it ended."""
    return Response(await _job(services, name, job_id), media_type=JSON_TYPE)


@ROUTER.post(
    "/{name}/rebuilds/{id}/cancel",
    operation_id="cancelRebuild",
    summary="Stop a rebuild; the live tables stay as they are",
    status_code=202,
    responses={
        202: success(
            "Asked to stop.", ProjectionJob, example={**EXAMPLE_JOB, "state": "cancelling"}
        ),
        **problems(codes.NOT_FOUND, codes.PROJECTION_JOB_ENDED),
    },
    dependencies=[Depends(require_write_capacity)],
)
async def cancel(services: ServicesDep, _caller: Operator, name: Name, job_id: JobId) -> Response:
    """The job; it ends as `cancelled`, or as `done` where it was faster."""
    await _job(services, name, job_id)

    def ask() -> bool:
        with services.writes.connection() as connection:
            return jobs.cancel(connection, name, job_id)

    if not await run_in_threadpool(ask):
        raise ApiError(codes.PROJECTION_JOB_ENDED)
    return Response(await _job(services, name, job_id), 202, media_type=JSON_TYPE)


async def _begun(
    services: Services,
    name: str,
    kind: ProjectionJobKind,
    key_id: UUID,
    throttle: float | None = None,
) -> Response:
    """Write down what is wanted. Raises 409 (E5020) where something is under way already."""

    def ask() -> int | None:
        with services.writes.connection() as connection:
            return jobs.ask(connection, name, kind, key_id, throttle)

    job_id = await run_in_threadpool(ask)
    if job_id is None:
        raise ApiError(codes.PROJECTION_JOB_IN_PROGRESS)
    return Response(
        await _job(services, name, job_id),
        202,
        media_type=JSON_TYPE,
        headers={"Location": f"/api/projections/{name}/rebuilds/{job_id}"},
    )


async def _job(services: Services, name: str, job_id: int) -> bytes:
    async with services.reads.plain() as connection:
        found = await jobs.job_as_json(connection, name, job_id)
    if found is None:
        raise ApiError(codes.NOT_FOUND)
    return found


def _shown(plan: RebuildPlan) -> dict[str, Any]:
    return {
        "projection": plan.projection,
        "events": plan.events,
        "seconds": round(plan.seconds, 1),
        "bytes": plan.bytes,
        "liveVersion": plan.live_version,
        "newVersion": plan.new_version,
        "codeChanged": plan.code_changed,
    }


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type=JSON_TYPE)
