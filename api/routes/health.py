"""/livez, /healthz, /readyz and /metrics, for whoever watches Annals.

Live: this process answers. Ready: requests may be sent here. Healthy: nobody needs to be woken.
"""

from __future__ import annotations

import hmac
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from api.entities.routes import ServicesDep
from api.http.openapi import problems, success
from runtime import codes
from runtime.errors import ApiError
from runtime.health import HealthSnapshot
from runtime.patches import JSON_TYPE

ROUTER = APIRouter(tags=["operation"])

BARE = (codes.UNKNOWN_PARAMETER, codes.UNEXPECTED)
LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")

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
EXAMPLE_METRICS = 'annals_projection_lag_events{projection="accounts"} 0.0\n'


@ROUTER.get(
    "/livez",
    operation_id="liveness",
    summary="Whether the process answers at all",
    responses={200: success("It does.", example={"status": "live"}), **problems(always=BARE)},
)
async def liveness() -> Response:
    """Asks nobody else: a lost database is no reason to restart this process."""
    return Response(b'{"status":"live"}', media_type=JSON_TYPE)


@ROUTER.get(
    "/healthz",
    operation_id="health",
    summary="Whether all projections do their work, and of each that does not, why",
    responses={
        200: success(
            "They do; `degraded` where somebody should see to something all the same.",
            example={"status": "ok", "projections": [EXAMPLE_PROJECTION], "jobs": EXAMPLE_JOBS},
        ),
        **problems(codes.UNHEALTHY, codes.DATABASE_UNREACHABLE, always=BARE),
    },
)
async def health(services: ServicesDep) -> Response:
    """Red within 10 s where a projection makes no progress though there is something to do."""
    view = await services.health_monitor.look()
    _require_answer(view)
    if view.status == "red":
        red = [each for each in view.projections if each.status == "red"]
        said = [f"{each.name}: {'; '.join(each.alarms)}" for each in red]
        said += [f"the database lacks {each}" for each in view.missing]
        said += view.process_alarms
        detail = f"{'. '.join(said)}."
        raise ApiError(codes.UNHEALTHY, detail, projections=view.told(), missing=view.missing)
    content = {"status": view.status, "projections": view.told(), "jobs": view.jobs.told()}
    return _answer(content)


@ROUTER.get(
    "/readyz",
    operation_id="readiness",
    summary="Whether requests may be sent here: database, tables, and lag of the projections",
    responses={
        200: success("They may.", example={"status": "ready", "lagSeconds": 0}),
        **problems(codes.DATABASE_UNREACHABLE, codes.NOT_READY, always=BARE),
    },
)
async def readiness(services: ServicesDep) -> Response:
    """The lag is that of the projection that is furthest behind."""
    view = await services.health_monitor.look()
    _require_answer(view)
    if view.missing:
        detail = f"The database lacks {', '.join(view.missing)}: run annals migrate."
        raise ApiError(codes.NOT_READY, detail, missing=view.missing)
    limit_s = services.settings.ready_lag_max_s
    late = [each for each in view.projections if each.facts["lagSeconds"] > limit_s]
    if late:
        named = ", ".join(f"{each.name} {each.facts['lagSeconds']:.0f} s" for each in late)
        detail = f"More than {limit_s:g} s behind: {named}."
        raise ApiError(codes.NOT_READY, detail, projections=[each.told() for each in late])
    lags_s = [each.facts["lagSeconds"] for each in view.projections]
    return _answer({"status": "ready", "lagSeconds": max(lags_s, default=0)})


@ROUTER.get(
    "/metrics",
    operation_id="metrics",
    summary="What Prometheus collects",
    responses={
        200: {
            **success("Metrics in Prometheus' text format."),
            "content": {"text/plain": {"schema": {"type": "string"}, "example": EXAMPLE_METRICS}},
        },
        **problems(codes.METRICS_FORBIDDEN, always=BARE),
    },
)
async def metrics(request: Request, services: ServicesDep) -> Response:
    """Answers this machine only, or whoever has the token where ANNALS_METRICS_TOKEN is set."""
    _require_reader(request, services.settings.metrics_token)
    view = await services.health_monitor.look()
    content = request.app.state.metrics.exposition(view)
    return Response(content, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _answer(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type=JSON_TYPE)


def _require_answer(view: HealthSnapshot) -> None:
    if view.error:
        raise ApiError(codes.DATABASE_UNREACHABLE, f"{view.error[0].upper()}{view.error[1:]}.")


def _require_reader(request: Request, token: str | None) -> None:
    """Raise 403 (E1009) where the metrics are not for whoever asks."""
    if token is not None:
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise ApiError(codes.METRICS_FORBIDDEN)
        return
    # A proxy on this machine passes on what comes from anywhere.
    is_near = request.client is not None and request.client.host in LOOPBACK
    if not is_near or any(name in request.headers for name in FORWARDED):
        raise ApiError(codes.METRICS_FORBIDDEN)
