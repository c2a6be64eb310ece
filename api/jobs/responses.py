"""Jobs in responses, for every route that requests or shows one."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import Response
from pydantic import ConfigDict, Field

from api.http.openapi.examples import EXAMPLE_ACTOR, EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.records import Actor, ResponseModel, page_of
from api.http.openapi.responses import success
from api.http.responses import json_response
from commands.jobs.requests import JobOutcome
from domain.job import Job, JobStatus
from eventlog.scope import Scope


class JobSummary(ResponseModel):
    """A job, as commands show it."""

    id: UUID
    kind: str
    status: JobStatus
    total: int | None = Field(description="Null until it is known.")
    processed: int
    succeeded: int
    failed: int


class RequestedJob(JobSummary):
    """A job that a command requested."""

    command_id: str = Field(description="POST /api/undo with it undoes all that the job does.")


class JobError(ResponseModel):
    """An item that failed."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(description="An error code, or that of an issue of a row.")
    error: str
    row: int | None = None
    id: str | None = None


class ListedJob(RequestedJob):
    """A job with its progress."""

    counts: dict[str, int]
    errors_total: int
    failure: Any = Field(description="Why the job as a whole failed.")
    parameters: dict[str, Any]
    requested_by: Actor | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    updated_at: datetime
    version: int


class JobWithErrors(ListedJob):
    """A job with its progress and its first errors."""

    errors: list[JobError]


JOB_PAGE = page_of(ListedJob, "JobPage", str)
JOB_ERROR_PAGE = page_of(JobError, "JobErrorPage", int)

EXAMPLE_JOB_SUMMARY = {
    "id": EXAMPLE_ID,
    "kind": "bulk",
    "status": "waiting",
    "total": 5_000,
    "processed": 0,
    "succeeded": 0,
    "failed": 0,
    "commandId": EXAMPLE_ID,
}
EXAMPLE_LISTED_JOB = {
    **EXAMPLE_JOB_SUMMARY,
    "status": "running",
    "processed": 1_500,
    "succeeded": 1_499,
    "failed": 1,
    "counts": {},
    "errorsTotal": 1,
    "failure": None,
    "parameters": {"kind": "account", "change": {"set": {"priority": "high"}}},
    "requestedBy": EXAMPLE_ACTOR,
    "createdAt": EXAMPLE_TIME,
    "startedAt": EXAMPLE_TIME,
    "endedAt": None,
    "updatedAt": EXAMPLE_TIME,
    "version": 5,
}
EXAMPLE_JOB_ERROR = {"row": 17, "code": "E5003", "error": "It is deleted; restore it first."}
EXAMPLE_JOB = {**EXAMPLE_LISTED_JOB, "errors": [EXAMPLE_JOB_ERROR]}

JOB_ACCEPTED = success(
    "A job carries it out. Location shows its progress, and its `/events` streams it.",
    RequestedJob,
    *("Location", "Annals-Position"),
    example=EXAMPLE_JOB_SUMMARY,
)
"""The response 202 of a route that requests a job."""


def job_accepted(outcome: JobOutcome, scope: Scope) -> Response:
    """Return 202: the job waits for a worker. Its `commandId` undoes everything that it does."""
    content = {**job_summary(outcome.job), "commandId": scope.command_id}
    headers = {"Location": f"/api/jobs/{outcome.job.id}"}
    return json_response(content, 202, position=outcome.position, headers=headers)


def job_summary(job: Job) -> dict[str, Any]:
    """Return a job as the responses of commands show it."""
    return {
        "id": str(job.id),
        "kind": job.work,
        "status": job.status.value,
        "total": job.total,
        "processed": job.processed,
        "succeeded": job.succeeded,
        "failed": job.failed,
    }
