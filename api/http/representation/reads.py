"""Middleware: entity tags, conditional requests, HEAD, OPTIONS and links, for every route."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.representation.headers import set_value, value_of
from api.http.representation.links import next_page_link
from api.http.representation.tags import OF_VERSION, find_match, tag_of
from runtime.patches import JSON_TYPE

JSON_TYPE_BYTES = JSON_TYPE.encode()
MORE_METHODS = ("HEAD", "OPTIONS")
"""Methods that every path with GET, or with any method, has."""
OWN_HEAD = ("/export",)
"""Ends of paths whose routes answer HEAD themselves: an export that has begun is not cut off."""
OF_CONTENT = frozenset({b"content-length", b"content-type", b"content-encoding", b"link"})
"""Headers that describe a body, and are left out of 304 (RFC 9110, section 15.4.5)."""


class Representations:
    """ASGI middleware: completes responses, and answers HEAD, OPTIONS and If-None-Match.

    A JSON response gets a strong ETag. GET with an If-None-Match that matches it is 304. HEAD is
    answered as GET without the body, and a stream is not sent for it. OPTIONS is 204 with Allow.
    """

    def __init__(self, app: ASGIApp, *, methods_at: Callable[[str], list[str]]) -> None:
        """methods_at: returns the methods of a path, none if there is no such path."""
        self.app = app
        self._methods_at = methods_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on and complete its response."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and (allow := self._allowed(scope["path"])):
            headers = [(b"allow", allow.encode())]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body"})
        else:
            await self._pass_on(scope, receive, send)

    def _allowed(self, path: str) -> str:
        if path == "*":  # the server as a whole (RFC 9110, section 9.3.7)
            return "GET, HEAD, OPTIONS, PATCH, POST, DELETE"
        return allow_header(self._methods_at(path))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_head = scope["method"] == "HEAD" and not scope["path"].endswith(OWN_HEAD)
        response = _Response(scope, send, without_body=is_head)
        if is_head:
            scope["method"] = "GET"  # routes and their dependencies know no HEAD
        try:
            await self.app(scope, receive, response.send)
        except HeadersSent:
            # Now that the application has cleaned up: it takes the end of the response for the end
            # of the connection.
            await send({"type": "http.response.body"})
        finally:
            if is_head:
                scope["method"] = "HEAD"


def allow_header(methods: list[str]) -> str:
    """The value of Allow for a path with these methods; empty if it has none."""
    if not methods:
        return ""
    more = MORE_METHODS if "GET" in methods else MORE_METHODS[1:]
    return ", ".join(sorted({*methods, *more}))


class HeadersSent(Exception):
    """The headers of a response to HEAD are sent, so the application need not go on."""


class _Response:
    """The response of one request, whose start waits for the body if the body is complete."""

    def __init__(self, scope: Scope, send: Send, *, without_body: bool) -> None:
        self._scope = scope
        self._send = send
        self._without_body = without_body
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Take a message of the application."""
        if message["type"] == "http.response.start":
            if self._without_body:
                self._scope["method"] = "HEAD"  # what the server goes by when it writes
            if _is_complete_json(message):
                self._start = message
                return
            await self._send(message)
            if self._without_body:
                raise HeadersSent
            return
        start, self._start = self._start, None
        if start is not None:
            body = bytes(message.get("body", b""))
            is_unchanged = self._complete(start, body)
            await self._send(start)
            if is_unchanged or self._without_body:
                message = {"type": "http.response.body"}
        await self._send(message)

    def _complete(self, start: Message, body: bytes) -> bool:
        """Add ETag and Link. True if the response became 304."""
        headers = start["headers"] = list(start["headers"])
        tag = (value_of(headers, b"etag") or b"").decode("latin-1")
        given = OF_VERSION.fullmatch(tag)
        is_read = self._scope["method"] in ("GET", "HEAD") and start["status"] == 200
        if given or (is_read and not tag):
            tag = tag_of(body, given[1] if given else None)
            set_value(headers, b"etag", tag.encode())
        if not is_read:
            return False
        if value_of(headers, b"link") is None and (link := next_page_link(self._scope, body)):
            headers.append((b"link", link.encode("latin-1")))
        conditions = [value for name, value in self._scope["headers"] if name == b"if-none-match"]
        matched = find_match(b", ".join(conditions).decode("latin-1"), tag) if conditions else None
        if matched is None:
            return False
        set_value(headers, b"etag", matched.encode("latin-1"))
        start["headers"] = [each for each in headers if each[0] not in OF_CONTENT]
        start["status"] = 304
        return True


def _is_complete_json(start: Message) -> bool:
    """Whether the body is JSON and comes in one piece; streams have no Content-Length."""
    headers = start["headers"]
    content_type = (value_of(headers, b"content-type") or b"").partition(b";")[0]
    has_length = value_of(headers, b"content-length") is not None
    return content_type == JSON_TYPE_BYTES and has_length and start["status"] < 300
