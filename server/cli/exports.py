"""export KIND: a list, or the audit trail, as a file."""

from __future__ import annotations

import asyncio
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO
from uuid import UUID

import typer

from domain.shared.refusals import Refusal
from readmodels import kinds
from runtime.settings import Settings
from server.cli import CommandError, warn
from server.postgres.databases import Database

if TYPE_CHECKING:  # the rest is loaded by whoever exports, lest every command wait for it
    from readmodels.exports import Export
    from readmodels.pool import AsyncConnection

AUDIT = "audit"
FORMATS = ("csv", "ndjson")

FormatOption = Annotated[str, typer.Option("--format", help="csv or ndjson.")]
Target = Annotated[
    Path | None, typer.Option("--to", metavar="FILE", help="Standard output where there is none.")
]
Workspace = Annotated[UUID | None, typer.Option(help="Not the one of the home.")]


def add_exports(group: typer.Typer) -> None:
    """Add a command for each list, and one for the audit trail."""
    for plural in (*sorted(each.name for each in pkgutil.iter_modules(kinds.__path__)), AUDIT):
        what = "the audit trail" if plural == AUDIT else f"all {plural}"
        group.command(plural, help=f"Write {what} as CSV or NDJSON.")(_command(plural))


def _command(plural: str) -> Callable[..., None]:
    def export(form: FormatOption = "csv", to: Target = None, workspace: Workspace = None) -> None:
        from server.cli.local.database import catch_up, workspace_of_home

        if form not in FORMATS:
            raise CommandError(f"--format is one of {', '.join(FORMATS)}, not {form}.")
        with Database(Settings()) as database:
            settings = database.settings
            catch_up(settings)
            workspace = workspace or workspace_of_home(settings)[1].workspace_id
            try:
                position = asyncio.run(_export(settings, workspace, plural, form, to))
            except Refusal as refusal:
                raise CommandError(str(refusal)) from None
            except OSError as failure:
                place = "Standard output" if to is None else to
                raise CommandError(f"{place} cannot be written: {failure.strerror}.") from None
        warn(f"{plural} as of position {position} of the log.")

    return export


async def _export(
    settings: Settings, workspace: UUID, plural: str, form: str, to: Path | None
) -> int:
    """Write the file, which is there whole or not at all; returns the position."""
    from api.dependencies.services import export_limiter
    from projections.engine.registry import PROJECTIONS
    from readmodels.exports import blocks, one_point

    # Of the trail a list shows nothing, and the trail nothing of lists.
    projections = {AUDIT} if plural == AUDIT else PROJECTIONS.keys() - {AUDIT}
    pool = export_limiter(settings).pool
    await pool.open()
    try:
        with _whole(to) as target:
            async with one_point(pool, workspace, projections) as point:
                export = await _prepare(point.connection, plural, form, workspace)
                async with aclosing(blocks(point.connection, export)) as stream:
                    async for block in stream:
                        target.write(block)
    finally:
        await pool.close()
    return point.position


@contextmanager
def _whole(to: Path | None) -> Iterator[BinaryIO]:
    """The file to write to, which gets its name once all is written; else standard output."""
    if to is None:
        yield sys.stdout.buffer
        return
    part = to.with_name(f"{to.name}.part")
    with part.open("wb") as target:
        yield target
    part.replace(to)


async def _prepare(connection: AsyncConnection, plural: str, form: str, workspace: UUID) -> Export:
    from readmodels.audit import AuditQuery
    from readmodels.exports import Format, audit_export, list_export
    from readmodels.lists import LISTS, ListQuery

    if plural == AUDIT:
        return await audit_export(connection, AuditQuery(workspace), Format(form))
    return await list_export(connection, LISTS[plural], ListQuery(workspace), Format(form))
