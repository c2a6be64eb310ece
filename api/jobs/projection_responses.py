"""The JSON of projections and of jobs on them, and the models of requests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from api.http.bodies import RequestModel
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.records import ResponseModel
from projections.engine.rebuild.plan import RebuildPlan

EVENTS_PER_S_MAX = 10_000_000
REASON_MAX_CHARS = 500
REASON_TO_REPLACE: Mapping[str, Any] = MappingProxyType(
    {
        "if": {"properties": {"replace": {"const": True}}, "required": ["replace"]},
        "then": {"properties": {"reason": {"pattern": r"\S"}}, "required": ["reason"]},
    }
)

EXAMPLE_OF_TENANT = {"name": "accounts", "isCurrent": True, "parked": 1}
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
    "replace": False,
    "reason": None,
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


class RebuildRequest(RequestModel):
    """Options of a rebuild."""

    model_config = ConfigDict(strict=True, json_schema_extra=dict(REASON_TO_REPLACE))

    throttle: float | None = Field(
        default=None,
        ge=1,
        le=EVENTS_PER_S_MAX,
        description="Maximum number of events to read per second.",
    )
    plan: bool = Field(default=False, description="Return the plan without starting a rebuild.")
    replace: bool = Field(
        default=False,
        description="Replace the live tables, also damaged or missing ones, without comparing the"
        " rows. The tables from before are kept for a rollback.",
    )
    reason: str = Field(
        default="",
        max_length=REASON_MAX_CHARS,
        validate_default=True,
        description="Why the tables are replaced. Required with `replace`, and recorded.",
    )

    @field_validator("reason")
    @classmethod
    def _is_given_to_replace(cls, reason: str, info: ValidationInfo) -> str:
        if info.data.get("replace") and not reason.strip():
            raise ValueError("is required with `replace`")
        return reason.strip()


class VerifyRequest(RequestModel):
    """Options of a check of rows."""

    model_config = ConfigDict(strict=True)

    throttle: float | None = Field(
        default=None,
        ge=1,
        le=EVENTS_PER_S_MAX,
        description="Maximum number of events to read per second.",
    )


class ProjectionProgress(ResponseModel):
    """How far a projection is."""

    name: str
    position: int
    lag_events: int
    lag_seconds: float
    idle_seconds: float
    parked: int
    faults: int


class ProjectionState(ProjectionProgress):
    """A projection, as operators see it."""

    version: str
    wanted_version: str | None
    state: str
    problem: str | None
    holder: str | None
    updated_at: datetime


class ParkedEntity(ResponseModel):
    """An entity whose events a projection cannot process."""

    entity_id: UUID
    position: int
    events: int
    error: str
    parked_at: datetime


class ProjectionOfTenant(ResponseModel):
    """A projection, as tenants see it."""

    name: str
    is_current: bool
    parked: int
    parked_entities: list[ParkedEntity] = Field(
        default=[], description="Those of the workspace; absent from lists."
    )


class Projections(BaseModel):
    """All projections."""

    items: list[ProjectionState] | list[ProjectionOfTenant]


class PlannedRebuild(ResponseModel):
    """What a rebuild would take."""

    projection: str
    events: int
    seconds: float
    bytes: int
    live_version: str
    new_version: str
    code_changed: bool


class ProjectionJob(ResponseModel):
    """A job on a projection: a rebuild, a rollback, a check of rows, or a retry of parked ones."""

    id: int
    projection: str
    kind: str = Field(description="`rebuild`, `rollback`, `verify` or `retry`.")
    state: str = Field(
        description="`requested` until a projector begins; then the current step; `cancelling`"
        " after a request to cancel; finally `done`, `failed` or `cancelled`."
    )
    processed: int = Field(description="Events read.")
    total: int = Field(description="Events to read.")
    rate_per_second: float | None = Field(description="Events read per second, on average.")
    seconds_left: int | None
    throttle: float | None
    replace: bool = Field(description="Whether the live rows are replaced without a comparison.")
    reason: str | None = Field(description="Why they are.")
    message: str = Field(description="The outcome. The projector's log has the details.")
    requested_at: str
    started_at: str | None
    ended_at: str | None


class ProjectionJobs(BaseModel):
    """The latest jobs of a projection."""

    items: list[ProjectionJob]


def plan_as_json(plan: RebuildPlan) -> dict[str, Any]:
    """Return the JSON of a plan."""
    return {
        "projection": plan.projection,
        "events": plan.events,
        "seconds": round(plan.seconds, 1),
        "bytes": plan.bytes,
        "liveVersion": plan.live_version,
        "newVersion": plan.new_version,
        "codeChanged": plan.code_changed,
    }
