"""How jobs are answered, by every route that begins one."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Response

from api.http.conditions import POSITION
from api.http.openapi import EXAMPLE_ID, EXAMPLE_TIME, success
from commands.jobs.requests import JobOutcome
from domain.job import Job
from eventlog.scope import Scope
from runtime.patches import JSON_TYPE

EXAMPLE_ACTOR = {"type": "api_key", "id": EXAMPLE_ID, "name": "Nightly sync"}
EXAMPLE_BRIEF = {
    "id": EXAMPLE_ID,
    "kind": "bulk",
    "status": "waiting",
    "total": 5_000,
    "processed": 0,
    "succeeded": 0,
    "failed": 0,
    "commandId": EXAMPLE_ID,
}
EXAMPLE_SUMMARY = {
    **EXAMPLE_BRIEF,
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
EXAMPLE_ERROR = {"row": 17, "code": "E5003", "error": "It is deleted; restore it first."}
EXAMPLE_JOB = {**EXAMPLE_SUMMARY, "errors": [EXAMPLE_ERROR]}

ACCEPTED = success(
    "A job does it: follow Location, or its `/events`.",
    None,
    *("Location", "Annals-Position"),
    example=EXAMPLE_BRIEF,
)
"""The response 202 of a route that begins a job."""


def accepted(outcome: JobOutcome, scope: Scope) -> Response:
    """202: the job waits for a worker. By `commandId` all that it does can be undone."""
    content = {**brief(outcome.job), "commandId": scope.command_id}
    headers = {"Location": f"/api/jobs/{outcome.job.id}", POSITION: str(outcome.position)}
    return Response(orjson.dumps(content), 202, media_type=JSON_TYPE, headers=headers)


def brief(job: Job) -> dict[str, Any]:
    """What a command on a job answers."""
    return {
        "id": str(job.id),
        "kind": job.work,
        "status": job.status.value,
        "total": job.total,
        "processed": job.processed,
        "succeeded": job.succeeded,
        "failed": job.failed,
    }
