"""Request bodies: read within a size limit, parsed as strict JSON, validated by a model."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from domain.shared.fields import field_errors
from domain.shared.refusals import InvalidFields
from runtime import codes
from runtime.errors import ApiError
from runtime.patches import require_object

JSON_DEPTH_MAX = 16
"""Maximum nesting of objects and arrays; no request needs more than five levels."""
NUMBER_MAX_CHARS = 40
NAME_SHOWN_CHARS = 100

M = TypeVar("M", bound=BaseModel)


class RequestModel(BaseModel):
    """Base of the models of request bodies: camelCase names; unknown members are refused."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


def wire_names(model: type[RequestModel]) -> frozenset[str]:
    """The names of the members of a request body."""
    return frozenset(field.alias or name for name, field in model.model_fields.items())


@dataclass(frozen=True)
class Body:
    """A body within its size limit, not parsed yet: parsing belongs in a worker thread."""

    media_type: str
    content: bytes

    def json(self) -> Any:
        """Parse the content. Raises 400 (E2020 to E2023, E2028)."""
        return parse_json(self.content)

    def fields(self) -> dict[str, Any]:
        """Parse the content as a JSON object. Raises 400 (also E2026)."""
        return require_object(self.json())


def parse_body(model: type[M], body: Body) -> M:
    """Parse and validate the body. Raises `InvalidFields`, and 400 as `Body.fields` does."""
    return validate(model, body.fields())


def validate(model: type[M], fields: Mapping[str, Any]) -> M:
    """Validate the fields of a body. Raises `InvalidFields`."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise InvalidFields(field_errors(error)) from None


def require_body(
    *media_types: str, limit: str = "body_max_bytes"
) -> Callable[[Request], Awaitable[Body]]:
    """Return a dependency: the body, which has one of these media types.

    `limit` names the setting with its maximum size in bytes. Raises 408 (E4002), 413 (E2024),
    415 (E2025).
    """

    async def read(request: Request) -> Body:
        media_type = require_media_type(request, media_types)
        return Body(media_type, await read_body(request, limit))

    return read


async def read_body(request: Request, limit: str = "body_max_bytes") -> bytes:
    """Read the whole body. Raises 413 (E2024) as soon as it is too large, and 408 (E4002)."""
    settings = request.app.state.settings
    max_bytes: int = getattr(settings, limit)
    if _content_length(request) > max_bytes:
        raise _too_large(max_bytes)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise ApiError(codes.BODY_TIMED_OUT, headers={"Connection": "close"}) from None
    return b"".join(chunks)


def require_media_type(request: Request, supported: tuple[str, ...]) -> str:
    """Return the media type of the body, without parameters. Raises 415 (E2025)."""
    media_type, _, parameters = request.headers.get("Content-Type", "").partition(";")
    media_type = media_type.strip().lower()
    charset = parameters.strip().lower().replace('"', "")
    if media_type in supported and charset in ("", "charset=utf-8"):
        return media_type
    headers = {"Accept-Patch" if request.method == "PATCH" else "Accept": ", ".join(supported)}
    raise ApiError(codes.UNSUPPORTED_MEDIA_TYPE, headers=headers, supported=list(supported))


def parse_json(body: bytes) -> Any:
    """Parse JSON strictly.

    Refuses what parsers interpret differently: duplicate names, numbers that would be rounded, NaN,
    lone surrogates and deep nesting.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise ApiError(codes.NOT_UTF8) from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_float,
            parse_int=_integer,
            parse_constant=_constant,
        )
        # orjson refuses what the standard library accepts: control characters, lone surrogates.
        orjson.loads(body)
    except RecursionError:
        raise ApiError(codes.TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise ApiError(codes.MALFORMED_JSON, str(error)) from None
    require_depth(value)
    return value


def require_depth(value: Any) -> None:
    """Raise 400 (E2023) if objects and arrays are nested deeper than JSON_DEPTH_MAX levels."""
    containers = [value]
    for _ in range(JSON_DEPTH_MAX + 1):
        containers = [each for each in containers if isinstance(each, dict | list)]
        if not containers:
            return
        containers = [inner for each in containers for inner in _elements(each)]
    raise ApiError(codes.TOO_DEEP, maxDepth=JSON_DEPTH_MAX)


def _elements(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _content_length(request: Request) -> int:
    length = request.headers.get("Content-Length", "0")
    return int(length) if length.isdecimal() else 0


def _too_large(max_bytes: int) -> ApiError:
    # The rest of the body is not read, so the connection cannot be reused.
    return ApiError(codes.BODY_TOO_LARGE, headers={"Connection": "close"}, maxBytes=max_bytes)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            shown = name.encode("utf-8", "replace").decode()[:NAME_SHOWN_CHARS]
            raise ApiError(codes.DUPLICATE_KEY, name=shown)
        found[name] = value
    return found


def _float(text: str) -> float:
    value = float(text) if len(text) <= NUMBER_MAX_CHARS else math.inf
    if not math.isfinite(value) or Decimal(text) != Decimal(repr(value)):
        raise ApiError(codes.INEXACT_NUMBER)
    return value


def _integer(text: str) -> int:
    if len(text) > NUMBER_MAX_CHARS:
        raise ApiError(codes.INEXACT_NUMBER)
    return int(text)


def _constant(name: str) -> NoReturn:
    raise ApiError(codes.MALFORMED_JSON, f"{name} is not JSON.")
