"""HTTP/1.1 connections with limits, so that no client can exhaust memory, sockets or time.

uvicorn's protocol bounds none of what arrives before a request is complete. This subclass counts
the bytes of each head, its headers and its URL while they arrive, gives each head a time, and
counts the connections (docs/adr/0020-http-limits.md).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uuid_utils.compat import uuid7
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.http.client_address import TrustedProxies
from api.http.problems import problem
from domain.shared.text import shortened
from runtime import codes
from runtime.codes.code import ErrorCode
from runtime.errors import ApiError
from runtime.settings import Settings

CLOSE = {"Connection": "close"}
PATH_SHOWN_MAX_CHARS = 200
"""Maximum length of the path in the refusal of a request whose head is not complete."""


class Connections:
    """The open connections of this process, counted in all and by address."""

    def __init__(self, settings: Settings) -> None:
        self._max = settings.http_connections_max
        self._per_address_max = settings.http_connections_per_address_max
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._by_address: Counter[str] = Counter()
        self._total = 0

    def open(self, address: str) -> bool:
        """Count a connection, unless there are too many of them; return whether it was counted."""
        if self._total >= self._max:
            return False
        if self._by_address[address] >= self._per_address_max and address not in self._proxies:
            return False
        self._total += 1
        self._by_address[address] += 1
        return True

    def close(self, address: str) -> None:
        """Count a connection no longer."""
        self._total -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


def bounded_protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """Return the class of the connections of one server, with the limits of these settings."""
    limits = {"settings": settings, "counted": Connections(settings)}
    return type("Protocol", (BoundedHttpProtocol,), limits)


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. A request that exceeds a limit is refused, and the connection is closed."""

    settings: Settings
    counted: Connections

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._address: str | None = None
        """The address under which the connection is counted."""
        self._is_in_head = True
        self._has_begun = False
        """Whether a part of the head has arrived."""
        self._head_bytes = 0
        self._headers = 0
        self._refusal: ErrorCode | None = None
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and refuse it if there are too many."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self.counted.open(address):
            self._refuse(codes.TOO_MANY_CONNECTIONS)
            return
        self._address = address
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection no longer."""
        self._release()
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on no more bytes of a head than it may have."""
        if self._refusal is not None:
            return
        if self._is_in_head:
            room = self.settings.http_head_max_bytes - self._head_bytes
            head, data = data[:room], data[room:]
            self._head_bytes += len(head)
            self._feed(head)
            if self._is_in_head and self._head_bytes >= self.settings.http_head_max_bytes:
                self._refuse(codes.HEAD_TOO_LARGE)
        if data and self._refusal is None and not self.transport.is_closing():
            self._feed(data)
        if self._is_in_head and self._has_begun and self._refusal is None:
            self._start_head_timer()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket's protocol, and go on counting it."""
        super().handle_websocket_upgrade()
        upgraded = self.transport.get_protocol()
        lost: Callable[[Exception | None], None] = upgraded.connection_lost

        def release(exc: Exception | None) -> None:
            self._release()
            lost(exc)

        upgraded.connection_lost = release  # type: ignore[method-assign]

    # Callbacks of the parser, which cannot be stopped: a refusal takes effect after each feed.

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._is_in_head = self._has_begun = True
        self._headers = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the URL; of one that is too long, the beginning for the refusal."""
        room = self.settings.http_url_max_bytes - len(self.url)
        if len(url) > room:
            self._refusal = self._refusal or codes.URL_TOO_LONG
        super().on_url(url[:room])

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer after the body."""
        self._headers += 1
        if self._headers > self.settings.http_headers_max:
            self._refusal = self._refusal or codes.HEAD_TOO_LARGE
        elif self._refusal is None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the request."""
        self._stop_head_timer()
        if self._refusal is None:
            self._is_in_head = False
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request; the next head begins."""
        if self._refusal is None:
            super().on_message_complete()
            self._is_in_head, self._has_begun = True, False
            self._head_bytes = 0

    def _feed(self, data: bytes) -> None:
        super().data_received(data)
        if self._refusal is not None:
            self._refuse(self._refusal)

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            timeout_s = self.settings.http_head_timeout_s
            self._head_timer = self.loop.call_later(timeout_s, self._on_head_timeout)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if self._has_begun:
            self._refuse(codes.HEAD_TIMED_OUT)
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, code: ErrorCode) -> None:
        """Answer with a problem document, unless another answer is on its way, and close."""
        self._refusal = code
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_problem(code, self._path()))
        self.transport.close()

    def _path(self) -> str:
        """The path as far as it has arrived, shortened; empty before the first byte of a head."""
        url = self.url if self._has_begun else b""
        return shortened(url.partition(b"?")[0].decode("latin-1"), PATH_SHOWN_MAX_CHARS)

    def _release(self) -> None:
        if self._address is not None:
            self.counted.close(self._address)
            self._address = None


def _problem(code: ErrorCode, path: str) -> bytes:
    """The response of the API to this error, as bytes."""
    response = problem(ApiError(code, headers=CLOSE), path=path, request_id=str(uuid7()))
    lines = [
        f"HTTP/1.1 {code.status} {HTTPStatus(code.status).phrase}".encode(),
        *(name.title() + b": " + value for name, value in response.raw_headers),
    ]
    return b"\r\n".join([*lines, b"", response.body])
