"""Descriptions of responses, and the errors that groups of routes have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.http.openapi.bodies import REF
from api.http.openapi.examples import EXAMPLE_ID
from api.http.problems import PROBLEM
from runtime import codes
from runtime.codes.code import ErrorCode

ALWAYS = (
    codes.NO_CREDENTIALS,
    codes.MALFORMED_CREDENTIALS,
    codes.UNKNOWN_KEY,
    codes.KEY_EXPIRED,
    codes.MEMBER_LEFT,
    codes.FORBIDDEN,
    codes.OPERATOR_HAS_NO_WORKSPACE,
    codes.TOO_MANY_AUTH_FAILURES,
    codes.TOO_MANY_REQUESTS,
    codes.UNKNOWN_PARAMETER,
    codes.INVALID_PARAMETER,
    codes.DATABASE_UNREACHABLE,
    codes.DATABASE_BUSY,
    codes.STORED_DATA_UNUSABLE,
    codes.TIMED_OUT,
    codes.UNEXPECTED,
)
"""Errors of every route that requires an API key."""
WITHOUT_KEY = (codes.UNKNOWN_PARAMETER, codes.UNEXPECTED)
"""Errors of every route that requires no API key."""

ON_READ = (codes.INVALID_MIN_POSITION, codes.NOT_YET_PROJECTED)
ON_WRITE = (
    codes.WRITE_CONTENTION,
    codes.WRITES_REFUSED,
    codes.INVALID_IDEMPOTENCY_KEY,
    codes.IDEMPOTENCY_KEY_REUSED,
    codes.IDEMPOTENCY_KEY_IN_FLIGHT,
)
ON_VERSION = (codes.INVALID_IF_MATCH, codes.STALE_VERSION)
ON_BODY = (
    codes.MALFORMED_JSON,
    codes.NOT_UTF8,
    codes.DUPLICATE_KEY,
    codes.TOO_DEEP,
    codes.BODY_TOO_LARGE,
    codes.UNSUPPORTED_MEDIA_TYPE,
    codes.UNEXPECTED_SHAPE,
    codes.INEXACT_NUMBER,
    codes.BODY_TIMED_OUT,
)
ON_FIELDS = (
    codes.NAME_REQUIRED,
    codes.INVALID_EMAIL,
    codes.INVALID_FIELDS,
    codes.FIELD_REQUIRED,
    codes.UNKNOWN_FIELD,
    codes.NOT_AN_OPTION,
    codes.TOO_LONG,
    codes.INVALID_NUMBER,
    codes.INVALID_TIME,
    codes.INVALID_VALUE,
    codes.NOT_A_MEMBER,
    codes.REFERENCE_UNAVAILABLE,
    codes.SET_BY_COMMAND,
)
ON_PATCH = (codes.MALFORMED_PATCH, codes.PATCH_TEST_FAILED, codes.PATCH_NOT_APPLICABLE)

HEADER_DESCRIPTIONS = {
    "ETag": "A strong entity tag: the version, then a digest of the body.",
    "Location": "The URL of the new resource.",
    "Annals-Position": "The log position at which the write is recorded.",
    "Annals-Command": "The id of the command; POST /api/undo with it undoes all that it did.",
    "Idempotent-Replayed": "`true` if this is a stored response; absent otherwise.",
    "X-Request-Id": "The id of the request, as in the server's log and in the recorded events.",
}


def problems(*possible: ErrorCode, always: Iterable[ErrorCode] = ALWAYS) -> dict[int | str, Any]:
    """Return the error responses of a route: one for each status, with an example for each code."""
    by_status: dict[int | str, list[ErrorCode]] = {}
    for code in sorted({*possible, *always}, key=lambda each: each.code):
        by_status.setdefault(code.status, []).append(code)
    return {status: _problem_response(found) for status, found in by_status.items()}


def headers(*names: str) -> dict[str, Any]:
    """Describe response headers. Routes that return Annals-Position also return those of writes."""
    of_writes = ("Annals-Command", "Idempotent-Replayed") if "Annals-Position" in names else ()
    shown = (*names, *of_writes, "X-Request-Id")
    return {
        name: {"description": HEADER_DESCRIPTIONS[name], "schema": {"type": "string"}}
        for name in shown
    }


def success(description: str, model: Any = None, *names: str, example: Any = None) -> Any:
    """Describe a successful response: its model, the names of its headers, an example."""
    response: dict[str, Any] = {"description": description, "headers": headers(*names)}
    if model is not None:
        response["model"] = model
    if example is not None:
        response["content"] = {"application/json": {"example": example}}
    return response


def _problem_response(possible: list[ErrorCode]) -> dict[str, Any]:
    return {
        "description": " ".join(f"{each.code}: {each.title}" for each in possible),
        "headers": headers(),
        "content": {
            PROBLEM: {
                "schema": {"$ref": REF.format(model="Problem")},
                "examples": {each.code: _problem_example(each) for each in possible},
            }
        },
    }


def _problem_example(code: ErrorCode) -> dict[str, Any]:
    value = {
        "type": f"/api/errors/{code.code}",
        "title": code.title,
        "status": code.status,
        "detail": code.title,
        "instance": "/api/accounts",
        "code": code.code,
        "requestId": EXAMPLE_ID,
    }
    return {"summary": code.title, "value": value}
