"""export KIND: write a list or the audit trail to a file."""

from __future__ import annotations

import asyncio
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO
from uuid import UUID

import typer
from typer.core import TyperGroup

from domain.shared.refusals import Refusal
from readmodels import kinds
from runtime.settings import Settings
from server.cli import CommandError, print_warning
from server.cli.options import WorkspaceOption

if TYPE_CHECKING:  # an export imports the rest when it runs, so that other commands start fast
    from readmodels.exports import Export, Snapshot

AUDIT = "audit"
FORMATS = ("csv", "ndjson")

FormatOption = Annotated[str, typer.Option("--format", help="csv or ndjson.")]
FileOption = Annotated[
    Path | None,
    typer.Option("--to", metavar="FILE", help="The file to write; standard output by default."),
]


class ExportCommands(TyperGroup):
    """Commands named by kinds, in the plural or the singular."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of this name, or of the plural of this kind."""
        from domain.shared.kinds import both_numbers

        found = super().get_command(ctx, cmd_name)
        return found or super().get_command(ctx, both_numbers(cmd_name)[-1])


def add_exports(group: typer.Typer) -> None:
    """Add one command for each list and one for the audit trail."""
    for plural in (*sorted(each.name for each in pkgutil.iter_modules(kinds.__path__)), AUDIT):
        content = "the audit trail" if plural == AUDIT else f"all {plural}"
        group.command(plural, help=f"Write {content} as CSV or NDJSON.")(_make_command(plural))


def _make_command(plural: str) -> Callable[..., None]:
    def export(
        form: FormatOption = "csv", to: FileOption = None, workspace: WorkspaceOption = None
    ) -> None:
        from server.cli.local.database import open_workspace

        if form not in FORMATS:
            raise CommandError(f"--format is one of {', '.join(FORMATS)}, not {form}.")
        with open_workspace(workspace) as (settings, workspace_id):
            try:
                position = asyncio.run(_export(settings, workspace_id, plural, form, to))
            except Refusal as refusal:
                raise CommandError(str(refusal)) from None
            except OSError as failure:
                target = "Standard output" if to is None else to
                raise CommandError(f"{target} cannot be written: {failure.strerror}.") from None
        print_warning(f"{plural} as of position {position} of the log.")

    return export


async def _export(
    settings: Settings, workspace: UUID, plural: str, form: str, to: Path | None
) -> int:
    """Write the file, completely or not at all, and return the log position of its rows."""
    from api.dependencies.services import export_limiter
    from projections.engine.registry import PROJECTIONS
    from readmodels.exports import blocks, consistent_snapshot

    # The audit trail is a reading of the log.
    projections = () if plural == AUDIT else tuple(PROJECTIONS)
    pool = export_limiter(settings).pool
    await pool.open()
    try:
        with _open_target(to) as target:
            async with consistent_snapshot(pool, workspace, projections) as snapshot:
                export = await _prepare(snapshot, plural, form, workspace)
                async with aclosing(blocks(snapshot.connection, export)) as stream:
                    async for block in stream:
                        target.write(block)
    finally:
        await pool.close()
    return snapshot.position


@contextmanager
def _open_target(to: Path | None) -> Iterator[BinaryIO]:
    """Yield standard output, or a temporary file that gets its name when it is complete."""
    if to is None:
        yield sys.stdout.buffer
        return
    part = to.with_name(f"{to.name}.part")
    with part.open("wb") as target:
        yield target
    part.replace(to)


async def _prepare(snapshot: Snapshot, plural: str, form: str, workspace: UUID) -> Export:
    from readmodels.audit import AuditQuery
    from readmodels.exports import Format, audit_export, list_export
    from readmodels.lists import LISTS, ListQuery

    if plural == AUDIT:
        query, position = AuditQuery(workspace), snapshot.position
        return await audit_export(snapshot.connection, query, Format(form), position)
    return await list_export(snapshot.connection, LISTS[plural], ListQuery(workspace), Format(form))
