"""Preconditions in headers: If-Match (RFC 9110) and Annals-Min-Position."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import Header, Request

from api.http.openapi.headers import POSITION_PATTERN, TAGS_PATTERN
from api.http.representation.tags import TAG_LIST, TAGS_MAX
from commands.decisions import Decision
from commands.loaded import LoadedEntities
from domain.shared.entity import Entity
from domain.shared.refusals import StaleVersion
from eventlog.reading.positions import POSITION_MAX, readable_position_async, taken_position
from projections.engine.registry import PROJECTIONS
from runtime import codes
from runtime.codes.code import ErrorCode
from runtime.errors import ApiError

R = TypeVar("R")

MIN_POSITION = "Annals-Min-Position"
POSITION_MAX_CHARS = 19

STRONG_VERSION = re.compile(r'(?<!W/)"([1-9][0-9]{0,8})(?:-[0-9a-z-]*)?"')
"""A tag of an entity: its version, which alone counts for a write, and the digest of its bytes."""
NO_VERSION = 0
"""A version that no entity ever has; versions begin at 1."""


MinPositionHeader = Annotated[
    str | None,
    Header(
        alias=MIN_POSITION,
        description="Wait until the response includes all writes up to this position.",
        json_schema_extra={"pattern": POSITION_PATTERN},
    ),
]
READABLE_POLL_S = 0.02


async def if_match(
    request: Request,
    _described: Annotated[
        str | None,
        Header(
            alias="If-Match",
            description="The versions that may be changed: an ETag as it was returned, a version in"
            ' quotes (`"3"`), or `*`.',
            json_schema_extra={"pattern": TAGS_PATTERN},
        ),
    ] = None,
) -> list[int] | None:
    """Dependency: return the versions that If-Match allows; None if any version is allowed.

    Tags that cannot be a version are ignored, so they never match. Raises 400 (E2033).
    """
    given = request.headers.getlist("If-Match")
    if not given:
        return None
    value = ", ".join(given).strip()
    if value == "*":
        return None
    if not TAG_LIST.fullmatch(value) or value.count('"') > 2 * TAGS_MAX:
        raise ApiError(codes.INVALID_IF_MATCH)
    return [int(version) for version in STRONG_VERSION.findall(value)] or [NO_VERSION]


def with_if_match(versions: list[int] | None, act: Callable[[int | None], R]) -> R:
    """Call `act` with the expected version: the one of `versions` that the entity has.

    Raises `StaleVersion` if the entity has none of them.
    """
    if versions is None:
        return act(None)
    try:
        return act(max(versions))
    except StaleVersion as stale:
        if stale.actual not in versions or stale.actual == stale.expected:
            raise
        return act(stale.actual)


def decision_if_match(
    versions: list[int] | None, decision_for: Callable[[int | None], Decision]
) -> Decision:
    """The decision for the expected version, which is found as by `with_if_match`."""
    if versions is None:
        return decision_for(None)

    def decide(loaded: LoadedEntities) -> Entity:
        return with_if_match(versions, lambda version: decision_for(version).decide(loaded))

    return replace(decision_for(None), decide=decide)


def reject_if_match(versions: list[int] | None) -> None:
    """Raise 400 (E2033) if If-Match names versions, for a request that changes many entities."""
    if versions is not None:
        raise ApiError(
            codes.INVALID_IF_MATCH,
            "If-Match names the version of one entity, and this request may change many.",
        )


def await_position(*projections: str) -> Callable[..., Awaitable[None]]:
    """Return a dependency that waits until these projections reached Annals-Min-Position.

    It waits at most ANNALS_MIN_POSITION_WAIT_MS. Raises 400 (E2034) and 503 (E3003).
    """
    assert set(projections) <= PROJECTIONS.keys(), projections

    async def wait(request: Request, annals_min_position: MinPositionHeader = None) -> None:
        if annals_min_position is not None:
            await wait_for_projections(request, projections, parse_position(annals_min_position))

    return wait


async def await_readable(request: Request, annals_min_position: MinPositionHeader = None) -> None:
    """Dependency: wait until the log is final up to Annals-Min-Position.

    A reader of the log sees a write when no other writer can still record an event below it. It
    waits at most ANNALS_MIN_POSITION_WAIT_MS. Raises 400 (E2034) and 503 (E3003).
    """
    if annals_min_position is None:
        return
    position = parse_position(annals_min_position)
    state = request.app.state
    deadline = time.monotonic() + state.settings.min_position_wait_ms / 1000
    while True:
        async with state.services.reads.plain() as connection:
            if await readable_position_async(connection) >= position:
                return
        if time.monotonic() > deadline:
            raise ApiError(codes.NOT_YET_PROJECTED, minPosition=position)
        await asyncio.sleep(READABLE_POLL_S)


async def wait_for_projections(request: Request, projections: Iterable[str], position: int) -> None:
    """Wait until these projections reached the position. Raises 503 (E3003) after the time limit.

    The limit is the setting ANNALS_MIN_POSITION_WAIT_MS.
    """
    timeout_s = request.app.state.settings.min_position_wait_ms / 1000
    checkpoints = request.app.state.services.checkpoints
    if not await checkpoints.wait_until_projected(projections, position, timeout_s):
        raise ApiError(codes.NOT_YET_PROJECTED, minPosition=position)


async def wait_until_acknowledged_is_projected(
    request: Request, workspace_id: UUID, projections: Iterable[str]
) -> None:
    """Wait until these projections show every write that was acknowledged. Raises 503 (E3003).

    The last position taken counts and not the last readable one: another writer, which has not
    committed yet, may hold acknowledged events back from the projections.
    """
    async with request.app.state.services.reads.workspace(workspace_id) as connection:
        position = await taken_position(connection)
    await wait_for_projections(request, projections, position)


def parse_position(text: str, error: ErrorCode = codes.INVALID_MIN_POSITION) -> int:
    """Parse a position in a header or query. Raises 400 with this code, E2034 by default."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= POSITION_MAX_CHARS
    if not is_number or int(text) > POSITION_MAX:
        raise ApiError(error)
    return int(text)
