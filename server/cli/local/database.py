"""Direct access to the database, without HTTP, for the commands import, export, demo and keys.

It works with or without a running server. When no projector runs, the read tables are brought up to
date here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar
from uuid import UUID

import psycopg

from commands.keys import parse_token
from eventlog.connections import SET_WORKSPACE, AsyncConnection, Connection, raw_json
from eventlog.reading import readable_position
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.refusal import REPLACE_HINT
from projections.engine.registry import PROJECTIONS, versions
from readmodels import table_definitions
from readmodels.keys import KeyRow, find_key
from readmodels.operation.checkpoints import NotProjected, wait_until_projected
from runtime.composition import app_url
from runtime.home import token_file
from runtime.settings import Settings
from server.cli import CommandError
from server.postgres.databases import Database

T = TypeVar("T")

CATCH_UP_WAIT_MAX_S = 120.0
"""Longest wait for a running projector that makes no progress."""
CATCH_UP_BATCH_EVENTS = 5_000

SELECT_BEHIND = """
SELECT name, version, problem FROM projections
 WHERE holder IS NULL AND position < %s AND name NOT LIKE '%%:%%'
"""


def catch_up(settings: Settings) -> int:
    """Bring every projection to the current end of the log. Return that position.

    Projects here if no projector runs, and otherwise waits for the projector; projectors that
    consume Kafka are always waited for. Raises `CommandError` if they make no progress for
    `CATCH_UP_WAIT_MAX_S` seconds, or if other code made the rows
    or tables are damaged.
    """
    with _missing_tables_reported():
        project_here(settings)
        with psycopg.connect(app_url(settings), autocommit=True) as connection:
            target = readable_position(connection)
            _require_usable(connection, target)
            _wait_until_projected(connection, target)
    return target


def project_here(settings: Settings) -> None:
    """Bring the projections up to date that no projector works on, unless they consume Kafka."""
    if settings.source == "log":
        ProjectionEngine(
            str(settings.projector_url),
            PROJECTIONS.values(),
            versions=versions(table_definitions()),
            batch_events=CATCH_UP_BATCH_EVENTS,
        ).catch_up()


@contextmanager
def open_workspace(workspace: UUID | None) -> Iterator[tuple[Settings, UUID]]:
    """Yield the settings of an open, caught-up database, and the given or the home's workspace.

    Raises `CommandError`, and what `Database` raises.
    """
    with Database(Settings()) as database:
        catch_up(database.settings)
        yield database.settings, workspace or load_home_key(database.settings)[1].workspace_id


@contextmanager
def _missing_tables_reported() -> Iterator[None]:
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, LookupError):
        raise CommandError(
            "The database lacks tables of this version: run annals migrate, or annals up once."
        ) from None


def _wait_until_projected(connection: Connection, target: int) -> None:
    try:
        wait_until_projected(
            lambda: nullcontext(connection), target, CATCH_UP_WAIT_MAX_S, only_while_stalled=True
        )
    except NotProjected as error:
        raise CommandError(
            f"A projector has stopped at position {error.reached} of {target}:"
            " annals projections shows which one."
        ) from None


def _require_usable(connection: Connection, target: int) -> None:
    """Raise `CommandError` if projections are behind because no code may apply events to them."""
    behind = connection.execute(SELECT_BEHIND, (target,)).fetchall()
    for name, _, problem in behind:
        if problem:
            raise CommandError(f"The tables of {name} are damaged: {problem}; {REPLACE_HINT}")
    code = versions(table_definitions())
    changed = [name for name, version, _ in behind if version != code.get(name, version)]
    if changed:
        raise CommandError(
            f"These read tables were made by other code: {', '.join(changed)}. Run annals rebuild"
            " for each of them, or wait until annals up has done it."
        )


def load_home_key(settings: Settings) -> tuple[UUID, KeyRow]:
    """Return id and row of the home's own API key; the row names the workspace.

    `settings` are those of an open Database. Raises `CommandError` if the home has no valid key.
    """
    parsed = _read_home_token(settings)
    if parsed is None:
        raise CommandError(
            f"{settings.home} has no workspace yet: start annals demo or annals up once,"
            " or name a workspace (--workspace)."
        )
    key_id, _ = parsed
    row = with_reader(settings, lambda connection: find_key(connection, key_id))
    if row is None:
        raise CommandError("The key of this home is unknown or revoked: name a --workspace.")
    return key_id, row


def _read_home_token(settings: Settings) -> tuple[UUID, str] | None:
    """Return id and secret of the home's key, if it has one, for a database by URL or embedded."""
    own = settings.model_copy(update={"owner_url": None})
    for path in (token_file(settings), token_file(own)):
        if path.exists():
            return parse_token(path.read_text(encoding="utf-8").strip())
    return None


def with_reader(settings: Settings, read: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Return what `read` returns for a connection that has the API's role."""

    async def run() -> T:
        async with await psycopg.AsyncConnection.connect(
            app_url(settings), autocommit=True
        ) as connection:
            raw_json(connection)
            return await read(connection)

    with _missing_tables_reported():
        return asyncio.run(run())


def with_workspace_reader(
    settings: Settings, workspace_id: UUID, read: Callable[[AsyncConnection], Awaitable[T]]
) -> T:
    """Return what `read` returns for a connection that sees this workspace only."""

    async def read_in_workspace(connection: AsyncConnection) -> T:
        async with connection.transaction():
            await connection.execute(SET_WORKSPACE, (str(workspace_id),))
            return await read(connection)

    return with_reader(settings, read_in_workspace)
