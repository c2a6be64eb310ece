"""The hosts under whose names the API is served: a browser that was led here by another is refused.

Starlette's TrustedHostMiddleware cuts the host at its first colon, which breaks IPv6 addresses, and
its answer is no problem document.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.problems import problem_response
from runtime import codes
from runtime.errors import ApiError

ANY_HOST_PATH = "/livez"
"""Supervisors call this path by the address of the process, and it reveals nothing."""
ANY_SUBDOMAIN = "*."


class AllowedHosts:
    """The allowed hosts: names, addresses and `*.` with a domain, each with or without a port."""

    def __init__(self, names: str) -> None:
        """Parse hosts that are separated by commas."""
        given = {each.strip().lower() for each in names.split(",")} - {""}
        self._names = {each for each in given if not each.startswith(ANY_SUBDOMAIN)}
        self._endings = tuple(each[1:] for each in given - self._names)

    def __bool__(self) -> bool:
        return bool(self._names or self._endings)

    def __contains__(self, host: str) -> bool:
        """Whether the value of a header Host is allowed."""
        host = host.lower()
        name = _without_port(host)
        return not self._names.isdisjoint((host, name)) or bool(
            self._endings and (name.endswith(self._endings) or host.endswith(self._endings))
        )


class HostAllowlist:
    """ASGI middleware: refuses requests for other hosts with 421 (RFC 9110, 15.5.20)."""

    def __init__(self, app: ASGIApp, *, allowed: AllowedHosts) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] in ("http", "websocket") and scope["path"] != ANY_HOST_PATH:
            hosts = Headers(scope=scope).getlist("Host")
            if len(hosts) != 1 or hosts[0] not in self._allowed:
                error = ApiError(codes.HOST_NOT_ALLOWED)
                response = await problem_response(HTTPConnection(scope), error)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _without_port(host: str) -> str:
    """Return the host of `host:port`; an IPv6 address stands in brackets (RFC 3986, 3.2.2)."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
