"""Conditions in headers: If-Match (RFC 9110) and Annals-Min-Position."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, TypeVar

from fastapi import Header, Request, Response

from commands.entities import CommandOutcome
from domain.shared.refusals import StaleVersion
from projections.engine.registry import PROJECTIONS
from runtime import codes
from runtime.errors import ApiError

R = TypeVar("R")

POSITION = "Annals-Position"
MIN_POSITION = "Annals-Min-Position"
POSITION_MAX = 2**62
TAGS_MAX = 20

TAG = r'(?:W/)?"[\x21\x23-\x7e]*"'
TAG_LIST = re.compile(rf"\s*{TAG}(?:\s*,\s*{TAG})*\s*")
STRONG_VERSION = re.compile(r'(?<!W/)"([1-9][0-9]{0,8})"')
NO_VERSION = 0
"""A version that nothing ever has."""


def etag(version: int) -> str:
    """The strong entity tag of a version."""
    return f'"{version}"'


async def if_match(
    if_match: Annotated[
        list[str] | None,
        Header(
            alias="If-Match",
            description='Versions that may be changed, as ETag gave them: `"3"`, or `*`.',
        ),
    ] = None,
) -> list[int] | None:
    """A dependency: the versions that If-Match allows; None where every version will do.

    Raises 400 (E2033). Tags that no version can have are left out, and so never match.
    """
    if not if_match:
        return None
    value = ", ".join(if_match).strip()
    if value == "*":
        return None
    if not TAG_LIST.fullmatch(value) or value.count('"') > 2 * TAGS_MAX:
        raise ApiError(codes.INVALID_IF_MATCH)
    return [int(version) for version in STRONG_VERSION.findall(value)] or [NO_VERSION]


def on_versions(versions: list[int] | None, act: Callable[[int | None], R]) -> R:
    """Act on one of these versions, whichever it has. Raises `StaleVersion` where it has none."""
    if versions is None:
        return act(None)
    try:
        return act(max(versions))
    except StaleVersion as stale:
        if stale.actual not in versions or stale.actual == stale.expected:
            raise
        return act(stale.actual)


def position_header(outcome: CommandOutcome) -> dict[str, str]:
    """What every answer to a write carries: the position by which it is recorded."""
    return {POSITION: str(outcome.position)}


def await_position(*projections: str) -> Callable[..., Awaitable[None]]:
    """A dependency: waits until these projections reached Annals-Min-Position, within a bound.

    Raises 400 (E2034) and 503 (E3003).
    """
    assert set(projections) <= PROJECTIONS.keys(), projections

    async def wait(
        request: Request,
        annals_min_position: Annotated[
            str | None,
            Header(
                alias=MIN_POSITION,
                description="Wait until the answer contains what was written up to here.",
            ),
        ] = None,
    ) -> None:
        if annals_min_position is not None:
            await reach(request, projections, parse_position(annals_min_position))

    return wait


async def reach(request: Request, projections: Iterable[str], position: int) -> None:
    """Wait until these projections reached the position, within the bound. Raises 503 (E3003)."""
    timeout_s = request.app.state.settings.min_position_wait_ms / 1000
    checkpoints = request.app.state.services.checkpoints
    if not await checkpoints.wait_for(projections, position, timeout_s):
        raise ApiError(codes.NOT_YET_PROJECTED, minPosition=position)


def parse_position(text: str) -> int:
    """A position as a header carries it. Raises 400 (E2034)."""
    if not text.isascii() or not text.isdecimal() or len(text) > 19 or int(text) > POSITION_MAX:
        raise ApiError(codes.INVALID_MIN_POSITION)
    return int(text)


def versioned(content: bytes, version: int, status: int = 200, **headers: str) -> Response:
    """JSON of one thing, with its ETag."""
    return Response(
        content, status, media_type="application/json", headers={"ETag": etag(version), **headers}
    )
