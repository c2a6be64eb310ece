"""/api/errors: the list of error codes. No API key is required."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from api.http.openapi.responses import WITHOUT_KEY, problems, success
from api.http.responses import json_response
from runtime import codes
from runtime.codes import CODES
from runtime.errors import ApiError, dictionary

ROUTER = APIRouter(prefix="/api/errors", tags=["operation"])

EXAMPLE = dictionary()[0]


class ErrorCodeExplained(BaseModel):
    """An error code: `title` is for users, `explanation` for support."""

    code: str
    status: int
    title: str
    explanation: str
    known_as: str | None = Field(
        description="The value of `code` in problem documents, if it differs."
    )


class ErrorCodes(BaseModel):
    """All error codes."""

    items: list[ErrorCodeExplained]


@ROUTER.get(
    "",
    operation_id="listErrors",
    summary="List the error codes",
    responses={
        200: success("All error codes.", ErrorCodes, example={"items": [EXAMPLE]}),
        **problems(always=WITHOUT_KEY),
    },
)
async def list_() -> Response:
    """`{items}`."""
    return json_response({"items": dictionary()})


@ROUTER.get(
    "/{code}",
    operation_id="getError",
    summary="Get an error code; `type` of a problem document is this URL",
    responses={
        200: success("The error code.", ErrorCodeExplained, example=EXAMPLE),
        **problems(codes.NOT_FOUND, always=WITHOUT_KEY),
    },
)
async def get(code: Annotated[str, Path(examples=["E2001"])]) -> Response:
    """The code, its title and its explanation."""
    if code not in CODES:
        raise ApiError(codes.NOT_FOUND, "There is no such error code.")
    found = next(each for each in dictionary() if each["code"] == code)
    return json_response(found)
