"""Compression of what is read, by zstd or gzip, if the client takes it.

Only responses to GET are compressed. A response to a write may contain a secret (a new API key)
beside text that the client chose, whose compressed length would reveal the secret (BREACH). Event
streams are not compressed, because their messages have to leave at once.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_compress import CompressMiddleware, remove_compress_type

from api.http.representation.headers import set_value, value_of
from api.http.representation.tags import coded
from api.http.sse import MEDIA_TYPE

VARY = b"accept-encoding"
COMPRESS_BYTES_MIN = 1_000
"""Smaller bodies gain little."""
ZSTD_LEVEL = 3
GZIP_LEVEL = 5

remove_compress_type(MEDIA_TYPE)


class CompressedReads:
    """ASGI middleware: compresses responses to GET and names the coding in their entity tag."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._compressed = CompressMiddleware(
            app,
            minimum_size=COMPRESS_BYTES_MIN,
            zstd_level=ZSTD_LEVEL,
            brotli=False,
            gzip_level=GZIP_LEVEL,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, compressed if it may be."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return

        async def send_tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"] = list(message.get("headers", ()))
                coding, tag = value_of(headers, b"content-encoding"), value_of(headers, b"etag")
                if coding and tag:
                    set_value(
                        headers,
                        b"etag",
                        coded(tag.decode("latin-1"), coding.decode()).encode("latin-1"),
                    )
                vary = value_of(headers, b"vary")
                if vary is None:
                    headers.append((b"vary", b"Accept-Encoding"))
                elif VARY not in vary.lower():
                    set_value(headers, b"vary", vary + b", Accept-Encoding")
            await send(message)

        takes_coding = value_of(scope["headers"], VARY) is not None
        await (self._compressed if takes_coding else self.app)(scope, receive, send_tagged)
