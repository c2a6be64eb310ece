"""Work on the database without going through HTTP: what import, demo and keys have in common.

It works beside a running server and without one. Where no projector runs, the read tables are
brought up to date here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

import psycopg

from commands.keys import parse_token
from eventlog.connections import Connection, raw_json
from eventlog.reading import readable_position
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from readmodels.keys import KeyRow, find_key
from readmodels.pool import SET_WORKSPACE, AsyncConnection
from runtime.composition import app_url
from runtime.home import token_file
from runtime.settings import Settings
from server.cli import CommandError

T = TypeVar("T")

CATCH_UP_WAIT_MAX_S = 120.0
"""So long is waited for a running projector that makes no progress."""
CATCH_UP_POLL_S = 0.05
CATCH_UP_BATCH_EVENTS = 5_000

SELECT_LEAST = "SELECT coalesce(min(position), 0) FROM projections"


def catch_up(settings: Settings) -> int:
    """Have every projection read all that is in the log now; returns the position.

    Does the work itself where no projector runs, else waits for it; those that consume Kafka are
    always waited for. Raises `CommandError` where that makes no progress for
    `CATCH_UP_WAIT_MAX_S` seconds.
    """
    with _tables_required():
        if settings.source == "log":
            ProjectionEngine(
                str(settings.projector_url),
                PROJECTIONS.values(),
                batch_events=CATCH_UP_BATCH_EVENTS,
            ).catch_up()
        with psycopg.connect(app_url(settings), autocommit=True) as connection:
            target = readable_position(connection)
            _wait_until_projected(connection, target)
    return target


@contextmanager
def _tables_required() -> Iterator[None]:
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, LookupError):
        raise CommandError(
            "The database lacks tables of this version: run annals migrate, or annals up once."
        ) from None


def _wait_until_projected(connection: Connection, target: int) -> None:
    seen, seen_at = -1, time.monotonic()
    while True:
        row = connection.execute(SELECT_LEAST).fetchone()
        position = int(row[0]) if row else 0
        if position >= target:
            return
        if position > seen:
            seen, seen_at = position, time.monotonic()
        elif time.monotonic() - seen_at > CATCH_UP_WAIT_MAX_S:
            raise CommandError(
                f"The projector stands still at position {position} of {target}:"
                " annals projections shows which one."
            )
        time.sleep(CATCH_UP_POLL_S)


def workspace_of_home(settings: Settings) -> tuple[UUID, KeyRow]:
    """Id and row of the home's own key, which names the workspace.

    `settings` are those of an open Database. Raises `CommandError` where there is no such key.
    """
    parsed = _token_of_home(settings)
    if parsed is None:
        raise CommandError(
            f"{settings.home} has no workspace yet: start annals demo or annals up once,"
            " or name a workspace (--workspace)."
        )
    key_id, _ = parsed
    row = with_reader(settings, lambda connection: find_key(connection, key_id))
    if row is None:
        raise CommandError("The key of this home is not known or was revoked: name a --workspace.")
    return key_id, row


def _token_of_home(settings: Settings) -> tuple[UUID, str] | None:
    """The key of a home with its own database, or with one that was named from outside."""
    own = settings.model_copy(update={"owner_url": None})
    for path in (token_file(settings), token_file(own)):
        if path.exists():
            return parse_token(path.read_text(encoding="utf-8").strip())
    return None


def with_reader(settings: Settings, read: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """What `read` returns for a connection under the role of the API."""

    async def reading() -> T:
        async with await psycopg.AsyncConnection.connect(
            app_url(settings), autocommit=True
        ) as connection:
            raw_json(connection)
            return await read(connection)

    with _tables_required():
        return asyncio.run(reading())


def with_workspace_reader(
    settings: Settings, workspace_id: UUID, read: Callable[[AsyncConnection], Awaitable[T]]
) -> T:
    """What `read` returns for a connection that sees this workspace and no other."""

    async def reading(connection: AsyncConnection) -> T:
        async with connection.transaction():
            await connection.execute(SET_WORKSPACE, (str(workspace_id),))
            return await read(connection)

    return with_reader(settings, reading)
