"""Middleware around every request: its id, log line, metrics, and a response to any exception."""

from __future__ import annotations

import logging
import re
import time
from contextlib import ExitStack

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

from api.http.limits.keys import RATE_LIMIT
from api.http.pages.security import PAGE_POLICY
from api.http.problems import problem_response
from api.http.responses import POSITION
from api.http.sse import MEDIA_TYPE
from runtime.logs import current_request_id
from runtime.metrics import Metrics, route_of
from runtime.tracing import RequestSpan, SpanExporter

log = logging.getLogger("annals.request")

REQUEST_ID = "X-Request-Id"
REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
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
        served = _Served(Headers(scope=scope))
        state = scope.setdefault("state", {})
        state["request_id"] = served.request_id
        token = current_request_id.set(served.request_id)
        with ExitStack() as stack:
            if self._tracing is not None:
                served.span = stack.enter_context(self._tracing.request(served.headers))
                state["traceparent"] = served.span.traceparent
            try:
                await self._serve(served, scope, receive, send)
            finally:
                self._record(served, scope)
                current_request_id.reset(token)

    async def _serve(self, served: _Served, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                served.status = message["status"]
                served.position = headers.get(POSITION)
                if headers.get("Content-Type", "").startswith(MEDIA_TYPE):
                    # The hours for which a stream is open are not a response time.
                    served.duration_s = time.perf_counter() - served.started_s
                _add_headers(headers, scope, served.request_id)
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
            "keyId": scope["state"].get("key_id"),
        }
        if served.position is not None:
            facts["position"] = int(served.position)
        if served.span is not None:
            facts["traceId"] = served.span.trace_id
        level = logging.WARNING if served.status >= 500 else logging.INFO
        log.log(level, "request", extra={"facts": facts})


class _Served:
    """The state of a request while it is served."""

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.request_id = _request_id(headers)
        self.started_s = time.perf_counter()
        self.status = 0
        self.duration_s = 0.0
        """Set for streams only: the time until the first byte."""
        self.position: str | None = None
        """Annals-Position of the response."""
        self.span: RequestSpan | None = None


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID, "")
    return given if REQUEST_ID_PATTERN.fullmatch(given) else str(uuid7())


def _add_headers(headers: MutableHeaders, scope: Scope, request_id: str) -> None:
    headers[REQUEST_ID] = request_id
    headers.update(scope["state"].get(RATE_LIMIT, {}))
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "no-referrer")
    if headers.get("Content-Type", "").startswith("text/html"):
        headers.setdefault("Content-Security-Policy", PAGE_POLICY)
    if scope["path"].startswith("/api/"):
        headers.setdefault("Cache-Control", "no-store")
