"""Middleware around every request: its id, log line, metrics, and a response to any exception."""

from __future__ import annotations

import logging
import re
import time
from contextlib import nullcontext

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from api.http.limits.keys import RATE_LIMIT
from api.http.pages.security import PAGE_POLICY
from api.http.problems import problem_response
from api.http.representation.headers import RawHeaders, add_missing, set_value, value_of
from api.http.responses import POSITION
from api.http.sse import MEDIA_TYPE
from runtime.logs import current_request_id
from runtime.metrics import Metrics, route_of
from runtime.tracing import RequestSpan, SpanExporter

log = logging.getLogger("annals.request")

REQUEST_ID = b"x-request-id"
REQUEST_ID_PATTERN = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
POSITION_NAME = POSITION.lower().encode()
STREAM_TYPE = MEDIA_TYPE.encode()
ON_EVERY_RESPONSE = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
ON_PAGES = ((b"content-security-policy", PAGE_POLICY.encode()),)
ON_API = ((b"cache-control", b"no-store"),)
CLIENT_GONE = 499
"""The status logged if the client closed the connection before the response (as in nginx)."""


class RequestContext:
    """ASGI middleware: gives each request an id, shown in its response and in its log lines.

    The client's X-Request-Id is used if it is 1 to 128 letters, digits and `._:-`; otherwise the
    request gets a new UUIDv7.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access_log: bool = False,
        metrics: Metrics | None = None,
        tracing: SpanExporter | None = None,
    ) -> None:
        self._app = app
        self._access_log = access_log
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; exceptions become responses."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        served = _Served(scope["headers"])
        state = scope.setdefault("state", {})
        state["request_id"] = served.request_id
        token = current_request_id.set(served.request_id)
        traced = self._tracing.request(Headers(scope=scope)) if self._tracing else nullcontext()
        with traced as served.span:
            if served.span is not None:
                state["traceparent"] = served.span.traceparent
            try:
                await self._serve(served, scope, receive, send)
            finally:
                self._record(served, scope)
                current_request_id.reset(token)

    async def _serve(self, served: _Served, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"] = list(message.get("headers", ()))
                served.status = message["status"]
                served.position = value_of(headers, POSITION_NAME)
                content_type = value_of(headers, b"content-type") or b""
                if content_type.startswith(STREAM_TYPE):
                    # The hours for which a stream is open are not a response time.
                    served.duration_s = time.perf_counter() - served.started_s
                _add_headers(headers, content_type, scope, served.request_id)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            served.status = CLIENT_GONE
        except Exception as error:
            if served.status:
                raise
            response = await problem_response(Request(scope), error)
            await response(scope, receive, send_with_id)

    def _record(self, served: _Served, scope: Scope) -> None:
        duration_s = served.duration_s or time.perf_counter() - served.started_s
        route = route_of(scope)
        if self._metrics is not None:
            self._metrics.request(scope["method"], route, served.status, duration_s)
        if served.span is not None:
            served.span.end(scope["method"], route, served.status, served.request_id)
        if not self._access_log and served.status < 500:
            return
        # The path without its query, which may contain personal data that was searched for.
        facts = {
            "method": scope["method"],
            "path": scope["path"],
            "status": served.status,
            "durationMs": round(duration_s * 1000, 2),
            "client": scope["client"][0] if scope.get("client") else None,
            "keyId": scope["state"].get("key_id"),  # a UUID, which is written as text
        }
        if served.position is not None:
            facts["position"] = int(served.position)
        if served.span is not None:
            facts["traceId"] = served.span.trace_id
        level = logging.WARNING if served.status >= 500 else logging.INFO
        log.log(level, "request", extra={"facts": facts})


class _Served:
    """The state of a request while it is served."""

    def __init__(self, headers: RawHeaders) -> None:
        self.request_id = _request_id(headers)
        self.started_s = time.perf_counter()
        self.status = 0
        self.duration_s = 0.0
        """Set for streams only: the time until the first byte."""
        self.position: bytes | None = None
        """Annals-Position of the response."""
        self.span: RequestSpan | None = None


def _request_id(headers: RawHeaders) -> str:
    given = value_of(headers, REQUEST_ID) or b""
    return given.decode() if REQUEST_ID_PATTERN.fullmatch(given) else str(uuid7())


def _add_headers(headers: RawHeaders, content_type: bytes, scope: Scope, request_id: str) -> None:
    set_value(headers, REQUEST_ID, request_id.encode())
    for name, value in scope["state"].get(RATE_LIMIT, {}).items():
        set_value(headers, name.lower().encode(), value.encode())
    wanted: tuple[tuple[bytes, bytes], ...] = ON_EVERY_RESPONSE
    if content_type.startswith(b"text/html"):
        wanted += ON_PAGES
    if scope["path"].startswith("/api/"):
        wanted += ON_API
    add_missing(headers, wanted)
