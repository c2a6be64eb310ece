"""/livez, /healthz, /readyz and /metrics, for monitoring.

Live: this process responds. Ready: it can serve requests. Healthy: no operator is needed.
"""

from __future__ import annotations

import hmac
from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel, Field

from api.dependencies.annotated import ServicesDep
from api.dependencies.services import Services
from api.http.openapi.records import ResponseModel
from api.http.openapi.responses import WITHOUT_KEY, problems, success, text
from api.http.responses import json_response
from api.jobs.projection_responses import ProjectionProgress
from runtime import codes
from runtime.errors import ApiError
from runtime.health_snapshot import HealthSnapshot

ROUTER = APIRouter(tags=["operation"])

LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")

EXAMPLE_PROJECTION = {
    "name": "accounts",
    "status": "ok",
    "reasons": [],
    "position": 1200,
    "lagEvents": 0,
    "lagSeconds": 0,
    "idleSeconds": 3.2,
    "parked": 0,
    "faults": 0,
}
EXAMPLE_JOBS = {"open": 2, "oldestSeconds": 4.1, "idleSeconds": 0.8, "reasons": []}
EXAMPLE_STORAGE = {
    "readOnly": False,
    "freeBytes": 81_604_378_624,
    "sizeBytes": 270_582_939_648,
    "backupAgeSeconds": 40_320.5,
    "reasons": [],
}
EXAMPLE_METRICS = 'annals_projection_lag_events{projection="accounts"} 0.0\n'


class Liveness(BaseModel):
    """The process responds."""

    status: Literal["live"]


class ProjectionHealth(ProjectionProgress):
    """Whether a projection makes progress."""

    status: str
    reasons: list[str]


class OpenJobs(ResponseModel):
    """The open jobs of all workspaces."""

    open: int
    oldest_seconds: float
    idle_seconds: float
    reasons: list[str]


class Storage(ResponseModel):
    """The disk of the database, and the latest backup."""

    read_only: bool
    free_bytes: int | None
    size_bytes: int | None
    backup_age_seconds: float | None
    reasons: list[str]


class Health(BaseModel):
    """The status; details are for callers who may read the metrics."""

    status: Literal["ok", "degraded"]
    projections: list[ProjectionHealth] | None = None
    jobs: OpenJobs | None = None
    storage: Storage | None = None


class Readiness(ResponseModel):
    """The process can serve requests."""

    status: Literal["ready"]
    lag_seconds: float | None = Field(
        default=None, description="For callers who may read the metrics."
    )


@ROUTER.get(
    "/livez",
    operation_id="getLiveness",
    summary="Whether the process responds at all",
    responses={
        200: success("It responds.", Liveness, example={"status": "live"}),
        **problems(always=WITHOUT_KEY),
    },
)
async def liveness() -> Response:
    """Nothing else is checked: an unreachable database is no reason to restart this process."""
    return json_response({"status": "live"})


@ROUTER.get(
    "/healthz",
    operation_id="getHealth",
    summary="Whether all projections make progress, and if not, why",
    responses={
        200: success(
            "They do. `degraded` means that something needs attention nevertheless.",
            Health,
            example={
                "status": "ok",
                "projections": [EXAMPLE_PROJECTION],
                "jobs": EXAMPLE_JOBS,
                "storage": EXAMPLE_STORAGE,
            },
        ),
        **problems(codes.UNHEALTHY, codes.DATABASE_UNREACHABLE, always=WITHOUT_KEY),
    },
)
async def health(request: Request, services: ServicesDep) -> Response:
    """503 within 10 s after a projection with events to process has stopped making progress.

    Callers who may read the metrics also see projections and jobs; others see the status only.
    """
    snapshot = await services.health.snapshot()
    _require_database(snapshot)
    if not await _may_see_details(request, services):
        if snapshot.status == "red":
            raise ApiError(codes.UNHEALTHY)
        return json_response({"status": snapshot.status})
    projections = snapshot.projections_as_json()
    if snapshot.status == "red":
        detail = f"{'. '.join(snapshot.alarms)}."
        missing = snapshot.missing
        raise ApiError(
            codes.UNHEALTHY,
            detail,
            projections=projections,
            missing=missing,
            deviations=snapshot.deviations,
        )
    content = {
        "status": snapshot.status,
        "projections": projections,
        "jobs": snapshot.jobs.as_json(),
        "storage": snapshot.storage.as_json(),
    }
    return json_response(content)


@ROUTER.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Whether this process can serve requests: database, tables, lag of the projections",
    responses={
        200: success("It can.", Readiness, example={"status": "ready", "lagSeconds": 0}),
        **problems(codes.DATABASE_UNREACHABLE, codes.NOT_READY, always=WITHOUT_KEY),
    },
)
async def readiness(request: Request, services: ServicesDep) -> Response:
    """`lagSeconds` is the largest lag of any projection, for callers who may read the metrics."""
    snapshot = await services.health.snapshot()
    _require_database(snapshot)
    limit_s = services.settings.ready_lag_max_s
    lagging = snapshot.lagging(limit_s)
    if not await _may_see_details(request, services):
        if snapshot.missing or snapshot.deviations or lagging:
            raise ApiError(codes.NOT_READY)
        return json_response({"status": "ready"})
    if snapshot.missing:
        detail = f"The database lacks {', '.join(snapshot.missing)}: run annals migrate."
        raise ApiError(codes.NOT_READY, detail, missing=snapshot.missing)
    if snapshot.deviations:
        detail = f"The database {'; '.join(snapshot.deviations)}."
        raise ApiError(codes.NOT_READY, detail, deviations=snapshot.deviations)
    if lagging:
        named = ", ".join(f"{each.name} {each.lag_s:.0f} s" for each in lagging)
        detail = f"More than {limit_s:g} s behind: {named}."
        raise ApiError(codes.NOT_READY, detail, projections=[each.as_json() for each in lagging])
    return json_response({"status": "ready", "lagSeconds": snapshot.lag_max_s})


@ROUTER.get(
    "/metrics",
    operation_id="getMetrics",
    response_class=Response,
    summary="Metrics for Prometheus",
    responses={
        200: text("Metrics in Prometheus' text format.", {"text/plain": EXAMPLE_METRICS}),
        **problems(codes.METRICS_FORBIDDEN, always=WITHOUT_KEY),
    },
)
async def metrics(request: Request, services: ServicesDep) -> Response:
    """Serves operators, and requests with ANNALS_METRICS_TOKEN, or without it this machine."""
    if not await _may_see_details(request, services):
        raise ApiError(codes.METRICS_FORBIDDEN)
    content = request.app.state.metrics.exposition(await services.health.snapshot())
    return Response(content, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _require_database(snapshot: HealthSnapshot) -> None:
    """Raise 503 (E3001) if the database did not respond."""
    if error := snapshot.error:
        raise ApiError(codes.DATABASE_UNREACHABLE, f"{error[0].upper()}{error[1:]}.")


async def _may_see_details(request: Request, services: Services) -> bool:
    """Whether the sender may see metrics and details, which span all workspaces."""
    given = request.headers.get("Authorization", "")
    token = services.settings.metrics_token
    if token is not None and hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        return True
    # A proxy on this machine forwards requests from anywhere.
    is_local = request.client is not None and request.client.host in LOOPBACK
    if token is None and is_local and not any(name in request.headers for name in PROXY_HEADERS):
        return True
    if not given:
        return False
    try:
        caller = await services.authenticator.identify(request, given.removeprefix("Bearer "))
    except ApiError:
        return False
    return caller.is_operator
