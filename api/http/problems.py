"""Problem documents (RFC 9457): the responses to requests that fail."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import orjson
from eventsourcing.persistence import PersistenceError
from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from domain.shared.fields import field_error
from domain.shared.refusals import Refusal
from runtime import codes
from runtime.codes.code import ErrorCode
from runtime.errors import CODES_BY_EXCEPTION, ApiError, as_api_error, field_problem

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
RETRY_AFTER_S = 1
WRITES_REFUSED_RETRY_AFTER_S = 30

RETRYABLE = frozenset(
    {
        codes.IDEMPOTENCY_KEY_IN_FLIGHT,
        codes.TOO_MANY_EXPORTS_OF_WORKSPACE,
        codes.TOO_MANY_JOB_FOLLOWERS_OF_WORKSPACE,
        codes.TOO_MANY_OPEN_JOBS,
        codes.TOO_MANY_SUBSCRIBERS_OF_KEY,
        codes.TOO_MANY_SUBSCRIBERS_OF_WORKSPACE,
    }
)
"""Errors that get a Retry-After header although their status is not 503."""

WITH_SUCCESS_FLAG: Mapping[str, Any] = MappingProxyType({"x-says-success": True})
"""For `openapi_extra` of a route whose responses have a member `success`, problems included. Its
problems also have a member `error`, with the same sentence as `detail`."""

CODES_BY_HTTP_STATUS: Mapping[int, ErrorCode] = MappingProxyType(
    {404: codes.ROUTE_NOT_FOUND, 405: codes.METHOD_NOT_ALLOWED, 413: codes.BODY_TOO_LARGE}
)


EXPECTED_ERRORS: tuple[type[Exception], ...] = (
    *(ApiError, Refusal, RequestValidationError, HTTPException, PersistenceError),
    *(exception for exception, _ in CODES_BY_EXCEPTION),
)
"""The exceptions of requests that fail in a way that is known."""


def problem(error: ApiError, *, path: str, request_id: str) -> Response:
    """Return the problem document that describes the error."""
    code = error.code
    body: dict[str, Any] = {
        "type": f"/api/errors/{code.code}",
        "title": code.title,
        "status": code.status,
        "detail": error.detail or code.title,
        "instance": path,
        "code": code.known_as or code.code,
        "requestId": request_id,
    }
    if code.known_as:
        body["errorCode"] = code.code
    if error.errors:
        body["errors"] = [field_problem(each) for each in error.errors]
    if error.errors_total > len(error.errors):
        body["errorsTotal"] = error.errors_total
    headers = dict(error.headers)
    if code == codes.WRITES_REFUSED:
        headers.setdefault("Retry-After", str(WRITES_REFUSED_RETRY_AFTER_S))
    elif code.status == 503 or code in RETRYABLE:
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    if code.status == 401:
        headers.setdefault("WWW-Authenticate", 'Bearer realm="annals"')
    content = orjson.dumps({**error.facts, **body}, default=str)
    return Response(content, status_code=code.status, media_type=PROBLEM, headers=headers)


async def problem_response(request: HTTPConnection, error: Exception) -> Response:
    """Return the response to a failed request; log server errors with their traceback."""
    api_error = _as_api_error(error)
    code = api_error.code
    if code == codes.WRITES_REFUSED:
        log.warning("%s %s: %s", code.code, request.url.path, code.title)
    elif code.status >= 500 and not isinstance(error, ApiError):
        log.error("%s %s: %s", code.code, request.url.path, type(error).__name__, exc_info=error)
    if code.status == 429 and (metrics := getattr(request.app.state, "metrics", None)):
        metrics.limited(code.code, str(api_error.facts.get("policy", "")))
    if _has_success_flag(request):
        api_error.facts |= {"success": False, "error": api_error.detail or code.title}
    request_id = request.scope.get("state", {}).get("request_id", "")
    return problem(api_error, path=request.url.path, request_id=request_id)


def _has_success_flag(request: HTTPConnection) -> bool:
    extra = getattr(request.scope.get("route"), "openapi_extra", None) or {}
    return WITH_SUCCESS_FLAG.keys() <= extra.keys()


def handle_errors(app: FastAPI) -> None:
    """Have the app respond to every expected exception with a problem document."""
    for kind in EXPECTED_ERRORS:
        app.add_exception_handler(kind, problem_response)


def invalid_parameters(errors: Iterable[Mapping[str, Any]]) -> ApiError:
    """Return a 400 (E2031) for errors of parameters as pydantic reports them."""
    found = [field_error(each) for each in errors]
    detail = "; ".join(f"{each.field}: {each.message}" for each in found)
    return ApiError(codes.INVALID_PARAMETER, detail, errors=found)


def _from_framework(error: HTTPException) -> ApiError:
    code = CODES_BY_HTTP_STATUS.get(error.status_code, codes.HTTP_REFUSED)
    return ApiError(code, headers=error.headers)


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, RequestValidationError):
        # The first part of a location is where the parameter stands: query, header or path.
        return invalid_parameters({**each, "loc": each["loc"][1:]} for each in error.errors())
    if isinstance(error, HTTPException):
        return _from_framework(error)
    return as_api_error(error)
