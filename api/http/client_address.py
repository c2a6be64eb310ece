"""The address of the client: the peer of the connection, or what a trusted proxy says it is."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.settings import parse_networks

FORWARDED_MAX = 20
"""Maximum number of addresses in X-Forwarded-For that are read, from the right."""
SCHEMES = {"http": "ws", "https": "wss"}
"""Schemes that X-Forwarded-Proto may name, and those of a WebSocket."""


class TrustedProxies:
    """The proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."""

    def __init__(self, names: str) -> None:
        """Parse addresses and networks, separated by commas. Raises `ValueError`."""
        self._networks = parse_networks(names)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        found = _parse(address)
        return found is not None and any(found in network for network in self._networks)

    def client_of(self, peer: str, forwarded: Iterable[str]) -> str:
        """Return the address of the client.

        peer: the other end of the connection. forwarded: the values of X-Forwarded-For. Each proxy
        appends the address that it was called from, so the list is read from the right, as long as
        the address before was that of a trusted proxy. What is not an address ends the reading.
        """
        client = peer
        hops = [hop.strip() for value in forwarded for hop in value.split(",")]
        for hop in reversed(hops[-FORWARDED_MAX:]):
            if client not in self or (found := _parse(hop)) is None:
                break
            client = str(found)
        return client


class ClientAddress:
    """ASGI middleware: sets the client's address and the scheme from the headers of a proxy."""

    def __init__(self, app: ASGIApp, *, proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with the address and scheme of its client."""
        peer = scope.get("client")
        if scope["type"] in ("http", "websocket") and peer and peer[0] in self._proxies:
            headers = Headers(scope=scope)
            client = self._proxies.client_of(peer[0], headers.getlist("X-Forwarded-For"))
            if client != peer[0]:
                scope["client"] = (client, 0)
            scheme = headers.get("X-Forwarded-Proto", "").strip().lower()
            if scheme in SCHEMES:
                scope["scheme"] = SCHEMES[scheme] if scope["type"] == "websocket" else scheme
        await self._app(scope, receive, send)


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(address)
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped or found
