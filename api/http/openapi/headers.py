"""The headers of requests and responses as the document describes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

TAG_PATTERN = r'"[!#-~]*"'
TAGS_PATTERN = rf"^(\*|(W/)?{TAG_PATTERN}(, ?(W/)?{TAG_PATTERN}){{0,19}})$"
"""Entity tags as in If-Match (RFC 9110, section 13.1.1)."""
VALUE_PATTERN = r"^[\t -~\x80-\xff]*$"
"""Any value of a header (RFC 9110, section 5.5)."""
POSITION_PATTERN = r"^[0-9]{1,18}$"
"""Positions that every implementation accepts; the server accepts up to 2^62."""
HEADER_REF = "#/components/headers/"

_TEXT: Mapping[str, Any] = MappingProxyType({"type": "string"})


def _header(
    description: str, schema: Mapping[str, Any] = _TEXT, *, is_required: bool = False
) -> dict[str, Any]:
    required = {"required": True} if is_required else {}
    return {"description": description, **required, "schema": dict(schema)}


RESPONSE_HEADERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Accept": _header("The media types that this route accepts."),
        "Accept-Patch": _header("The media types that this route accepts (RFC 5789)."),
        "Annals-Command": _header(
            "The id of the command; POST /api/undo with it undoes all that it did.",
            {"type": "string", "format": "uuid"},
        ),
        "Annals-Position": _header(
            "The log position of the write, or the position that all rows of an export show.",
            {"type": "string", "pattern": POSITION_PATTERN},
            is_required=True,
        ),
        "Content-Disposition": _header("A file name."),
        "ETag": _header(
            "A strong entity tag: the version if an entity is shown, then a digest of the body.",
            {"type": "string", "pattern": f"^{TAG_PATTERN}$"},
        ),
        "Idempotent-Replayed": _header(
            "`true` if this is a stored response; absent otherwise.",
            {"type": "string", "enum": ["true"]},
        ),
        "Link": _header("URLs of other pages: `first`, `prev`, `next`, `last` (RFC 8288)."),
        "Location": _header(
            "The URL of the new resource, or of the progress.",
            {"type": "string", "format": "uri-reference"},
            is_required=True,
        ),
        "RateLimit": _header(
            "What is left of each quota: `r` requests now, more in `t` seconds"
            " (draft-ietf-httpapi-ratelimit-headers). Absent without quotas.",
        ),
        "RateLimit-Policy": _header("Each quota: `q` requests in a window of `w` seconds."),
        "Retry-After": _header(
            "Seconds after which the request may succeed.", {"type": "integer", "minimum": 0}
        ),
        "WWW-Authenticate": _header("The challenge (RFC 6750, section 3).", is_required=True),
        "X-Request-Id": _header(
            "The id of the request, as in the server's log and in the recorded events.",
            {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
            is_required=True,
        ),
    }
)
"""The headers of responses, for the components of the document."""

IF_NONE_MATCH: Mapping[str, Any] = MappingProxyType(
    {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "Tags of earlier responses; 304 if one of them is still that of the"
        " response. What is no tag matches nothing.",
        "schema": {"type": "string", "pattern": VALUE_PATTERN},
    }
)


def described_headers(*names: str) -> dict[str, Any]:
    """Return references to the descriptions of these headers of a response."""
    return {name: {"$ref": HEADER_REF + name} for name in names}
