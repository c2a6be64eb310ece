"""Around every request: its id, its log line, and an answer even to what nobody foresaw."""

from __future__ import annotations

import logging
import re
import time
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

from api.errors import answer

log = logging.getLogger("annals.request")

REQUEST_ID = "X-Request-Id"
REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
CLIENT_GONE = 499
"""Logged where the client closed the connection before it had its answer (nginx's number)."""

current_request_id: ContextVar[str] = ContextVar("annals_request_id", default="")
"""The id of the request at hand, for log lines from anywhere below."""


class RequestContext:
    """ASGI middleware: gives each request an id, which is in its answer and in its log lines.

    A client's X-Request-Id is taken where it is 1 to 128 letters, digits and `._:-`; otherwise the
    request gets one of its own (UUIDv7).
    """

    def __init__(self, app: ASGIApp, *, access_log: bool = False) -> None:
        self._app = app
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Exceptions end here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        token = current_request_id.set(request_id)
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), scope["path"], request_id)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception as error:
            if status:
                raise
            response = await answer(Request(scope), error)
            await response(scope, receive, send_with_id)
        finally:
            self._log(scope, status, time.perf_counter() - started)
            current_request_id.reset(token)

    def _log(self, scope: Scope, status: int, duration_s: float) -> None:
        if not self._access_log and status < 500:
            return
        # The path without its query, which may hold what somebody searched for.
        facts = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "durationMs": round(duration_s * 1000, 2),
            "client": scope["client"][0] if scope.get("client") else None,
            "keyId": scope["state"].get("key_id"),
        }
        level = logging.WARNING if status >= 500 else logging.INFO
        log.log(level, "request", extra={"facts": facts})


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID, "")
    return given if REQUEST_ID_PATTERN.fullmatch(given) else str(uuid7())


def _add_headers(headers: MutableHeaders, path: str, request_id: str) -> None:
    headers[REQUEST_ID] = request_id
    headers.setdefault("X-Content-Type-Options", "nosniff")
    if path.startswith("/api/"):
        headers.setdefault("Cache-Control", "no-store")
