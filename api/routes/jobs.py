"""/api/jobs: how far jobs are, what went wrong, and an end to them."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from api.dependencies.idempotency import Executor
from api.dependencies.request import require_write_capacity
from api.entities.routes import EntityId, ServicesDep
from api.http.auth import Caller, Permission, require_permission
from api.http.conditions import POSITION, await_position, reach
from api.http.openapi import ON_READ, ON_WRITE, problems, success
from api.http.parameters import Cursor, OneOf
from api.http.sse import MEDIA_TYPE, EventStream, frame
from api.jobs.feed import PROGRESS, PROJECTION
from api.jobs.responses import EXAMPLE_BRIEF, EXAMPLE_ERROR, EXAMPLE_JOB, EXAMPLE_SUMMARY, brief
from domain.job import Job, JobStatus
from domain.shared.refusals import NotFound
from eventlog.scope import Scope
from readmodels.jobs import (
    ERRORS_PAGE_DEFAULT,
    ERRORS_PAGE_MAX,
    JOBS_PAGE_DEFAULT,
    JOBS_PAGE_MAX,
    JobsQuery,
    JobState,
    job_errors,
    job_states,
    jobs_page,
)
from readmodels.lists import InvalidCursor
from runtime import codes
from runtime.patches import JSON_TYPE
from runtime.work import work_factories

VERSION_MAX_DIGITS = 9

EXAMPLE_FRAME = frame(PROGRESS, orjson.dumps(EXAMPLE_JOB), 5).decode()

ROUTER = APIRouter(prefix="/api/jobs", tags=["jobs"])

Reader = Annotated[Caller, Depends(require_permission(Permission.READ))]
Waits = Annotated[None, Depends(await_position(PROJECTION))]
StatusFilter = Annotated[str, OneOf(tuple(each.value for each in JobStatus))]
JobKind = Annotated[str, OneOf(tuple(sorted(work_factories())))]


@ROUTER.get(
    "",
    operation_id="listJobs",
    summary="The jobs of the workspace, newest first",
    responses={
        200: success("One page.", example={"items": [EXAMPLE_SUMMARY], "nextCursor": None}),
        **problems(codes.INVALID_CURSOR, *ON_READ),
    },
)
async def list_(
    services: ServicesDep,
    caller: Reader,
    _: Waits,
    status: StatusFilter | None = None,
    kind: JobKind | None = None,
    cursor: Cursor | None = None,
    limit: Annotated[int, Query(alias="pageSize", ge=1, le=JOBS_PAGE_MAX)] = JOBS_PAGE_DEFAULT,
) -> Response:
    """`{items, nextCursor}`; the errors of a job are shown with the job itself."""
    before = None if cursor is None else _decoded(cursor)
    query = JobsQuery(caller.workspace_id, status, kind, before, limit)
    async with services.reads.workspace(caller.workspace_id) as connection:
        page = await jobs_page(connection, query)
    content = {"items": orjson.Fragment(page.items), "nextCursor": _encoded(page.last)}
    return Response(orjson.dumps(content), media_type=JSON_TYPE)


@ROUTER.get(
    "/{id}",
    operation_id="getJob",
    summary="How far a job is, with the first of its errors",
    responses={
        200: success("The job.", example=EXAMPLE_JOB),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def get(job_id: EntityId, services: ServicesDep, caller: Reader, _: Waits) -> Response:
    """`errors` names ERRORS_NAMED_MAX items; `/errors` has all of them."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        found = await job_states(connection, caller.workspace_id, [job_id])
    return Response(_the_one(found, job_id).content, media_type=JSON_TYPE)


@ROUTER.get(
    "/{id}/errors",
    operation_id="listJobErrors",
    summary="Every item of a job that failed, in order; kept for 30 days",
    responses={
        200: success("One page.", example={"items": [EXAMPLE_ERROR], "nextCursor": None}),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def errors(
    job_id: EntityId,
    services: ServicesDep,
    caller: Reader,
    _: Waits,
    cursor: Annotated[int, Query(ge=0, le=2**31 - 1, description="Go on after this.")] = 0,
    limit: Annotated[int, Query(alias="pageSize", ge=1, le=ERRORS_PAGE_MAX)] = ERRORS_PAGE_DEFAULT,
) -> Response:
    """`{items, nextCursor}`."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        _the_one(await job_states(connection, caller.workspace_id, [job_id]), job_id)
        content = await job_errors(
            connection, caller.workspace_id, job_id, after=cursor, limit=limit
        )
    return Response(content, media_type=JSON_TYPE)


@ROUTER.get(
    "/{id}/events",
    operation_id="followJob",
    summary="The progress of a job as server-sent events, until it ends",
    # An EventStream is returned. Were it named here, the framework would take the route for one
    # that makes the frames itself.
    response_class=StreamingResponse,
    responses={
        200: {
            **success("`progress` as often as it moves, then `end`; the data is the job."),
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}, "example": EXAMPLE_FRAME}},
        },
        **problems(codes.NOT_FOUND, codes.TOO_MANY_JOB_FOLLOWERS, *ON_READ),
    },
)
async def follow(
    request: Request,
    job_id: EntityId,
    services: ServicesDep,
    caller: Reader,
    _: Waits,
    last_event_id: Annotated[
        str | None, Header(description="The id of the last event that was seen: a version.")
    ] = None,
) -> Response:
    """What was seen already is not told again; the end always is."""
    services.job_feed.require_room()
    state = await _state(request, caller.workspace_id, job_id)
    seen = _version(last_event_id)
    return EventStream(services.job_feed.follow(caller.workspace_id, job_id, state, seen))


@ROUTER.post(
    "/{id}/cancel",
    operation_id="cancelJob",
    summary="No further step of the job is taken; what it did stays",
    responses={
        200: success(
            "Cancelled, or cancelled already.",
            None,
            "Annals-Position",
            example={**EXAMPLE_BRIEF, "status": "cancelled"},
        ),
        **problems(codes.NOT_FOUND, codes.JOB_ENDED, *ON_WRITE),
    },
    dependencies=[Depends(require_write_capacity)],
)
def cancel(
    job_id: EntityId,
    services: ServicesDep,
    _caller: Annotated[Caller, Depends(require_permission(Permission.WRITE))],
    executor: Executor,
) -> Response:
    """A step that is being taken meanwhile is not kept."""

    def act(scope: Scope) -> Response:
        outcome = services.jobs.cancel(scope, job_id)
        headers = {POSITION: str(outcome.position)}
        return Response(orjson.dumps(brief(outcome.job)), media_type=JSON_TYPE, headers=headers)

    return executor.run(act)


async def _state(request: Request, workspace_id: UUID, job_id: UUID) -> JobState:
    """The job; who has only just asked for it is waited for. Raises `NotFound`, 503 (E3003)."""
    services = request.app.state.services
    for is_last in (False, True):
        async with services.reads.workspace(workspace_id) as connection:
            found = await job_states(connection, workspace_id, [job_id])
        if found or is_last:
            break
        head = await run_in_threadpool(services.log.recorder.max_notification_id)
        await reach(request, (PROJECTION,), head or 0)
    return _the_one(found, job_id)


def _the_one(found: dict[UUID, JobState], job_id: UUID) -> JobState:
    if job_id not in found:
        raise NotFound(Job.KIND, job_id)
    return found[job_id]


def _version(last_event_id: str | None) -> int:
    """The version that was seen last; 0 where none was, or the id is none of ours."""
    given = last_event_id or ""
    is_version = given.isascii() and given.isdecimal() and len(given) <= VERSION_MAX_DIGITS
    return int(given) if is_version else 0


def _encoded(last: tuple[datetime, UUID] | None) -> str | None:
    if last is None:
        return None
    return base64.urlsafe_b64encode(orjson.dumps([last[0].isoformat(), str(last[1])])).decode()


def _decoded(cursor: str) -> tuple[datetime, UUID]:
    try:
        at, job_id = orjson.loads(base64.urlsafe_b64decode(cursor))
        return datetime.fromisoformat(at), UUID(job_id)
    except (binascii.Error, ValueError, TypeError, AttributeError):
        raise InvalidCursor from None
