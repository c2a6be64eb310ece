"""/healthz and /readyz, for whoever watches the process."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Response

from api import codes
from api.bodies import JSON_TYPE
from api.description import problems, success
from api.entity_routes import ServicesOf
from readmodels.checkpoints import report

ROUTER = APIRouter(tags=["operation"])

BARE = (codes.UNKNOWN_PARAMETER, codes.UNEXPECTED)


@ROUTER.get(
    "/healthz",
    operation_id="health",
    summary="Whether the process answers at all",
    responses={200: success("It does.", example={"status": "ok"}), **problems(always=BARE)},
)
async def health() -> Response:
    """Asks nobody else: a lost database is no reason to restart this process."""
    return Response(b'{"status":"ok"}', media_type=JSON_TYPE)


@ROUTER.get(
    "/readyz",
    operation_id="readiness",
    summary="Whether the database can be reached, and how far the projections lag",
    responses={
        200: success("Ready.", example={"status": "ready", "lagSeconds": 0}),
        **problems(codes.DATABASE_UNREACHABLE, codes.TIMED_OUT, always=BARE),
    },
)
async def readiness(services: ServicesOf) -> Response:
    """The lag is that of the projection that is furthest behind."""
    async with services.reads.plain() as connection:
        lags_s = [each["lagSeconds"] for each in await report(connection)]
    answer = {"status": "ready", "lagSeconds": max(lags_s, default=0)}
    return Response(orjson.dumps(answer), media_type=JSON_TYPE)
