"""/api/projections: how far each projection is."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Response

from api.auth import Caller, Permission, may
from api.bodies import JSON_TYPE
from api.conditions import await_position
from api.description import problems, success
from api.entity_routes import ServicesOf
from readmodels.checkpoints import report

ROUTER = APIRouter(prefix="/api/projections", tags=["operation"])

EXAMPLE = {
    "name": "accounts",
    "version": "3f2a9c01b7de",
    "state": "live",
    "position": 1200,
    "lagEvents": 0,
    "lagSeconds": 0,
}


@ROUTER.get(
    "",
    operation_id="listProjections",
    summary="Position and lag of every projection",
    responses={200: success("The projections.", example={"items": [EXAMPLE]}), **problems()},
)
async def list_(
    services: ServicesOf,
    _caller: Annotated[Caller, Depends(may(Permission.PROJECTIONS))],
    _: Annotated[None, Depends(await_position())],
) -> Response:
    """`{items}`; positions are those of the whole log."""
    async with services.reads.plain() as connection:
        items = await report(connection)
    return Response(orjson.dumps({"items": items}), media_type=JSON_TYPE)
