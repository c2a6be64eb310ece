"""/api/jobs: the progress and the errors of jobs, and their cancellation."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.dependencies.annotated import EntityId, Executor, Reader, ServicesDep, Writer
from api.dependencies.request import require_write_capacity
from api.http.conditions import await_position, wait_until_acknowledged_is_projected
from api.http.openapi.examples import one_page
from api.http.openapi.responses import ON_READ, ON_WRITE, problems, success, text
from api.http.parameters import Cursor, OneOf
from api.http.responses import json_response
from api.http.sse import MEDIA_TYPE, EventStream, frame
from api.jobs.feed import PROGRESS, PROJECTION
from api.jobs.responses import (
    EXAMPLE_JOB,
    EXAMPLE_JOB_ERROR,
    EXAMPLE_JOB_SUMMARY,
    EXAMPLE_LISTED_JOB,
    JOB_ERROR_PAGE,
    JOB_PAGE,
    JobSummary,
    JobWithErrors,
    job_summary,
)
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
from runtime import codes
from runtime.work import work_factories

VERSION_MAX_DIGITS = 9

EXAMPLE_FRAME = frame(PROGRESS, orjson.dumps(EXAMPLE_JOB), 5).decode()

ROUTER = APIRouter(prefix="/api/jobs", tags=["jobs"])

MinPosition = Annotated[None, Depends(await_position(PROJECTION))]
StatusFilter = Annotated[str, OneOf(tuple(each.value for each in JobStatus))]
JobKind = Annotated[str, OneOf(tuple(sorted(work_factories())))]


@ROUTER.get(
    "",
    operation_id="listJobs",
    summary="The jobs of the workspace, newest first",
    responses={
        200: success("One page.", JOB_PAGE, example=one_page(EXAMPLE_LISTED_JOB)),
        **problems(codes.INVALID_CURSOR, *ON_READ),
    },
)
async def list_(
    services: ServicesDep,
    caller: Reader,
    _: MinPosition,
    status: StatusFilter | None = None,
    kind: JobKind | None = None,
    cursor: Cursor | None = None,
    limit: Annotated[int, Query(alias="pageSize", ge=1, le=JOBS_PAGE_MAX)] = JOBS_PAGE_DEFAULT,
) -> Response:
    """`{items, nextCursor}`; GET /api/jobs/{id} also shows the errors of the job."""
    query = JobsQuery(caller.workspace_id, status, kind, cursor, limit)
    async with services.reads.workspace(caller.workspace_id) as connection:
        page = await jobs_page(connection, query)
    return json_response(page)


@ROUTER.get(
    "/{id:uuid}",
    operation_id="getJob",
    summary="The progress of a job, with its first errors",
    responses={
        200: success("The job.", JobWithErrors, example=EXAMPLE_JOB),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def get(job_id: EntityId, services: ServicesDep, caller: Reader, _: MinPosition) -> Response:
    """`errors` shows the first 100 errors; `/errors` has all of them."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        found = await job_states(connection, caller.workspace_id, [job_id])
    return json_response(_require(found, job_id).content)


@ROUTER.get(
    "/{id:uuid}/errors",
    operation_id="listJobErrors",
    summary="All failed items of a job, in order; kept for 30 days",
    responses={
        200: success("One page.", JOB_ERROR_PAGE, example=one_page(EXAMPLE_JOB_ERROR)),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def errors(
    job_id: EntityId,
    services: ServicesDep,
    caller: Reader,
    _: MinPosition,
    cursor: Annotated[
        int, Query(ge=0, le=2**31 - 1, description="`nextCursor` of the previous page.")
    ] = 0,
    limit: Annotated[int, Query(alias="pageSize", ge=1, le=ERRORS_PAGE_MAX)] = ERRORS_PAGE_DEFAULT,
) -> Response:
    """`{items, nextCursor}`."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        _require(await job_states(connection, caller.workspace_id, [job_id]), job_id)
        content = await job_errors(
            connection, caller.workspace_id, job_id, after=cursor, limit=limit
        )
    return json_response(content)


@ROUTER.get(
    "/{id:uuid}/events",
    operation_id="followJob",
    summary="The progress of a job as server-sent events, until it ends",
    # The route returns an EventStream. If that class were named here, the framework would expect
    # the route to yield the events itself.
    response_class=StreamingResponse,
    responses={
        200: text(
            "`progress` for each new version, then `end`; the data is the job.",
            {MEDIA_TYPE: EXAMPLE_FRAME},
        ),
        **problems(
            *(codes.NOT_FOUND, codes.TOO_MANY_JOB_FOLLOWERS),
            *(codes.TOO_MANY_JOB_FOLLOWERS_OF_WORKSPACE, *ON_READ),
        ),
    },
)
async def follow(
    request: Request,
    job_id: EntityId,
    services: ServicesDep,
    caller: Reader,
    _: MinPosition,
    last_event_id: Annotated[
        str | None,
        Header(
            description="The id of the last event received: a version of the job.",
            json_schema_extra={"pattern": f"^[0-9]{{1,{VERSION_MAX_DIGITS}}}$"},
        ),
    ] = None,
) -> Response:
    """Only versions after Last-Event-ID are sent; the `end` is always sent."""
    with ExitStack() as stack:
        stack.enter_context(services.job_feed.admitted(caller.workspace_id, job_id))
        state = await _load_state(request, caller.workspace_id, job_id)
        frames = services.job_feed.follow(
            caller.workspace_id, job_id, state, _parse_version(last_event_id)
        )
        return EventStream(frames, closing=stack.pop_all().close)


@ROUTER.post(
    "/{id:uuid}/cancel",
    operation_id="cancelJob",
    summary="Cancel a job; what it has done stays",
    responses={
        200: success(
            "Cancelled now or before.",
            JobSummary,
            "Annals-Position",
            example={**EXAMPLE_JOB_SUMMARY, "status": "cancelled"},
        ),
        **problems(codes.NOT_FOUND, codes.JOB_ENDED, *ON_WRITE),
    },
    dependencies=[Depends(require_write_capacity)],
)
def cancel(
    job_id: EntityId, services: ServicesDep, _caller: Writer, executor: Executor
) -> Response:
    """A step that is in progress is rolled back."""

    def act(scope: Scope) -> Response:
        outcome = services.jobs.cancel(scope, job_id)
        return json_response(job_summary(outcome.job), position=outcome.position)

    return executor.run(act)


async def _load_state(request: Request, workspace_id: UUID, job_id: UUID) -> JobState:
    """Return the job; wait for the projection if it was requested just now.

    Raises `NotFound` and 503 (E3003).
    """
    services = request.app.state.services
    for is_last in (False, True):
        async with services.reads.workspace(workspace_id) as connection:
            found = await job_states(connection, workspace_id, [job_id])
        if found or is_last:
            break
        await wait_until_acknowledged_is_projected(request, workspace_id, (PROJECTION,))
    return _require(found, job_id)


def _require(found: dict[UUID, JobState], job_id: UUID) -> JobState:
    if job_id not in found:
        raise NotFound(Job.KIND, job_id)
    return found[job_id]


def _parse_version(last_event_id: str | None) -> int:
    """Return the version in Last-Event-ID; 0 if there is none or it is not a version."""
    given = last_event_id or ""
    is_version = given.isascii() and given.isdecimal() and len(given) <= VERSION_MAX_DIGITS
    return int(given) if is_version else 0
