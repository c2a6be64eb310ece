"""Responses: JSON with the headers that Annals adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response

from runtime.patches import JSON_TYPE

POSITION = "Annals-Position"
COMMAND = "Annals-Command"


def json_response(
    content: Any,
    status: int = 200,
    *,
    version: int | None = None,
    position: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return JSON: `content` is written as JSON unless it is bytes, which already are JSON.

    `version` becomes the ETag of the entity shown, `position` the Annals-Position of the write.
    """
    body = content if isinstance(content, bytes) else orjson.dumps(content, default=str)
    all_headers = _headers(version, position) | dict(headers or {})
    return Response(body, status, media_type=JSON_TYPE, headers=all_headers)


def no_content(position: int) -> Response:
    """Return 204 for a write that is recorded at this position."""
    return Response(status_code=204, headers=_headers(None, position))


def etag(version: int) -> str:
    """Return the strong entity tag of a version (RFC 9110, section 8.8.3)."""
    return f'"{version}"'


def _headers(version: int | None, position: int | None) -> dict[str, str]:
    headers = {}
    if version is not None:
        headers["ETag"] = etag(version)
    if position is not None:
        headers[POSITION] = str(position)
    return headers
