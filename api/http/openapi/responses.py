"""Descriptions of responses, and the errors that groups of routes have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from api.http.openapi.bodies import REF
from api.http.openapi.examples import EXAMPLE_ID, with_marks
from api.http.openapi.headers import described_headers
from api.http.problems import PROBLEM, RETRYABLE
from runtime import codes
from runtime.codes import CODES
from runtime.codes.code import ErrorCode
from runtime.patches import JSON_TYPE

EXAMPLE_REF = "#/components/examples/"

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


def problems(*possible: ErrorCode, always: Iterable[ErrorCode] = ALWAYS) -> dict[int | str, Any]:
    """Return the error responses of a route: one for each status, with an example for each code."""
    by_status: dict[int | str, list[ErrorCode]] = {}
    for code in sorted({*possible, *always}, key=lambda each: each.code):
        by_status.setdefault(code.status, []).append(code)
    return {status: _problem_response(found) for status, found in by_status.items()}


def headers(*names: str) -> dict[str, Any]:
    """Describe response headers. Routes that return Annals-Position also return those of writes."""
    of_writes = ("Annals-Command", "Idempotent-Replayed") if "Annals-Position" in names else ()
    return described_headers(*names, *of_writes, "X-Request-Id")


def success(description: str, model: Any, *names: str, example: Any) -> Any:
    """Describe a successful response: its model, the names of its headers, an example."""
    return {
        "description": description,
        "headers": headers(*names),
        "model": model,
        "content": {JSON_TYPE: {"example": with_marks(example)}},
    }


def no_body(description: str, *names: str) -> Any:
    """Describe a successful response without a body."""
    return {"description": description, "headers": headers(*names)}


def text(description: str, contents: Mapping[str, str], *names: str) -> Any:
    """Describe a successful response that is no JSON, by an example for each media type."""
    content = {
        media_type: {"schema": {"type": "string"}, "example": example}
        for media_type, example in contents.items()
    }
    return {"description": description, "headers": headers(*names), "content": content}


def _problem_response(possible: list[ErrorCode]) -> dict[str, Any]:
    return {
        "description": " ".join(f"{each.code}: {each.title}" for each in possible),
        "headers": described_headers(*_headers_of(possible), "X-Request-Id"),
        "content": {
            PROBLEM: {
                "schema": {"$ref": REF.format(model="Problem")},
                "examples": {each.code: {"$ref": EXAMPLE_REF + each.code} for each in possible},
            }
        },
    }


def _headers_of(possible: list[ErrorCode]) -> Iterator[str]:
    """Yield the names of headers that problems with these codes, which share a status, have."""
    status = possible[0].status
    if status == 401:
        yield "WWW-Authenticate"
    if status in (429, 503, 507) or not RETRYABLE.isdisjoint(possible):
        yield "Retry-After"
    if status == 415:
        yield "Accept"
        yield "Accept-Patch"


def problem_examples() -> dict[str, Any]:
    """Return an example of a problem for each code, for the components of the document."""
    return {each.code: _problem_example(each) for each in CODES.values()}


def _problem_example(code: ErrorCode) -> dict[str, Any]:
    value = {
        "type": f"/api/errors/{code.code}",
        "title": code.title,
        "status": code.status,
        "detail": code.title,
        "instance": "/api/accounts",
        "code": code.known_as or code.code,
        **({"errorCode": code.code} if code.known_as else {}),
        "requestId": EXAMPLE_ID,
    }
    return {"summary": code.title, "value": value}
