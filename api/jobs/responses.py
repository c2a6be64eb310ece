"""Jobs in responses, for every route that requests or shows one."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from api.http.openapi.examples import EXAMPLE_ACTOR, EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.responses import success
from api.http.responses import json_response
from commands.jobs.requests import JobOutcome
from domain.job import Job
from eventlog.scope import Scope

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
    None,
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
