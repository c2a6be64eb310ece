"""Cursors of pages: JSON arrays in URL-safe base64 without padding, opaque to clients."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson


class InvalidCursor(ValueError):
    """The cursor was not returned by this list, in this order."""


def encode_cursor(content: bytes) -> str:
    """Encode a JSON array."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def decode_cursor(cursor: str) -> list[Any]:
    """Decode a cursor, with or without padding. Raises `InvalidCursor`."""
    try:
        content = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        raise InvalidCursor from None
    if not isinstance(content, list):
        raise InvalidCursor
    return content
