"""/api/errors: the dictionary of error codes, for everybody."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import APIRouter, Path, Response

from api.http.openapi import problems, success
from runtime import codes
from runtime.codes import CODES
from runtime.errors import ApiError, dictionary
from runtime.patches import JSON_TYPE

ROUTER = APIRouter(prefix="/api/errors", tags=["operation"])

EXAMPLE = dictionary()[0]
BARE = (codes.UNKNOWN_PARAMETER, codes.UNEXPECTED)


@ROUTER.get(
    "",
    operation_id="listErrors",
    summary="The dictionary of error codes",
    responses={
        200: success("All codes.", example={"items": [EXAMPLE]}),
        **problems(always=BARE),
    },
)
async def list_() -> Response:
    """`{items}`."""
    return Response(orjson.dumps({"items": dictionary()}), media_type=JSON_TYPE)


@ROUTER.get(
    "/{code}",
    operation_id="getError",
    summary="One error code, to which `type` of a problem points",
    responses={
        200: success("The code.", example=EXAMPLE),
        **problems(codes.NOT_FOUND, always=BARE),
    },
)
async def get(code: Annotated[str, Path(examples=["E2001"])]) -> Response:
    """The code, its message and its explanation."""
    if code not in CODES:
        raise ApiError(codes.NOT_FOUND, "There is no such error code.")
    found = next(each for each in dictionary() if each["code"] == code)
    return Response(orjson.dumps(found), media_type=JSON_TYPE)
