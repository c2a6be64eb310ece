"""Formats of exports, and which of them a request asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from fastapi import Header, Query

from readmodels.exports import Format
from runtime import codes
from runtime.errors import ApiError

ACCEPT_MAX_CHARS = 1_000

MEDIA_TYPES: Mapping[Format, str] = {
    Format.CSV: "text/csv; charset=utf-8; header=present",
    Format.NDJSON: "application/x-ndjson",
}

FORMATS_BY_MEDIA_RANGE: Mapping[str, Format] = {
    "text/csv": Format.CSV,
    "application/x-ndjson": Format.NDJSON,
    "text/*": Format.CSV,
    "application/*": Format.NDJSON,
    "*/*": Format.CSV,
}


async def requested_format(
    name: Annotated[
        Literal["csv", "ndjson"] | None,
        Query(alias="format", description="Takes precedence over Accept; CSV by default."),
    ] = None,
    accept: Annotated[
        # OpenAPI describes Accept by the media types of the responses.
        str | None, Header(max_length=ACCEPT_MAX_CHARS, include_in_schema=False)
    ] = None,
) -> Format:
    """Dependency: return the requested format. Raises 406 (E2082)."""
    if name is not None:
        return Format(name)
    found = preferred_format(accept or "*/*")
    if found is None:
        supported = ["text/csv", "application/x-ndjson"]
        raise ApiError(codes.UNSUPPORTED_EXPORT_FORMAT, supported=supported)
    return found


def preferred_format(accept: str) -> Format | None:
    """Return the format an Accept header prefers (RFC 9110, 12.5.1); None if it accepts none."""
    best, best_weight = None, 0.0
    for part in accept.split(","):
        media_range, *parameters = (each.strip().lower() for each in part.split(";"))
        found, weight = FORMATS_BY_MEDIA_RANGE.get(media_range), _weight(parameters)
        if found is not None and weight > best_weight:
            best, best_weight = found, weight
    return best


def _weight(parameters: Sequence[str]) -> float:
    """Return the `q` of a media range; 0 if it is not a number."""
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, float(value))
            except ValueError:
                return 0.0
    return 1.0
