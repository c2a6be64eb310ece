"""project --file and export history: an analyst's projections, and history as Parquet files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from runtime.settings import Settings
from server.cli import CommandError, print_line
from server.cli.exports import ExportCommands, add_exports
from server.cli.progress import progress_bar
from server.postgres.databases import Database

if TYPE_CHECKING:
    from eventlog.connections import Connection
    from eventlog.reading.part import Part
    from replay.analysis import AnalysisResult, StoreResult

PARQUET = "parquet"

FileOption = Annotated[
    Path | None, typer.Option(help="Run this analyst's projection instead of following the log.")
]
FirstPositionOption = Annotated[
    int, typer.Option("--from", min=0, help="The first position to read; 0 for all.")
]
AsOfOption = Annotated[
    str | None,
    typer.Option(help="Read nothing after this position, or time such as 2026-03-31T12:00Z."),
]
OnlyWorkspaceOption = Annotated[
    UUID | None, typer.Option(help="Read one workspace; all of them by default.")
]
TargetOption = Annotated[
    tuple[str, Path] | None,
    typer.Option(
        "--to", metavar="parquet FOLDER", help="With --file: write Parquet files, not a schema."
    ),
]
FolderOption = Annotated[Path, typer.Option("--to", help="An empty or new folder.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(
        cls=ExportCommands,
        help="Write lists, the audit trail or history to files.",
        no_args_is_help=True,
    )
    group.callback()(lambda: None)
    group.command("history")(export_history)
    add_exports(group)
    app.add_typer(group, name="export")


def project_file(
    file: Path,
    first: int,
    as_of: str | None,
    workspace: UUID | None,
    target: tuple[str, Path] | None,
) -> None:
    """Run an analyst's projection over history. Write to its own schema or to Parquet files."""
    from replay.analysis import AnalysisError, load_analysis, run_analysis

    store = _choose_store(target)
    choose = _choose_events(first, as_of, workspace)
    try:
        analysis = load_analysis(file.absolute())
        with Database(Settings()) as database, progress_bar("events") as report:
            url = str(database.settings.projector_url)
            result = run_analysis(url, analysis, choose, store, report)
    except AnalysisError as error:
        raise CommandError(str(error)) from None
    _print_result(result, None if target is None else target[1])


def export_history(
    folder: FolderOption,
    first: FirstPositionOption = 0,
    as_of: AsOfOption = None,
    workspace: OnlyWorkspaceOption = None,
) -> None:
    """Write the log as Parquet files, partitioned by the month in which events were recorded."""
    from replay.folders import FolderInUse
    from replay.parquet import export_history as export

    choose = _choose_events(first, as_of, workspace)
    try:
        with Database(Settings()) as database, progress_bar("events") as report:
            events = export(str(database.settings.projector_url), choose, folder, report)
    except FolderInUse as error:
        raise CommandError(str(error)) from None
    print_line(f"{events:,} events in {folder}.")


def _choose_events(
    first: int, as_of: str | None, workspace: UUID | None
) -> Callable[[Connection], Part]:
    from replay.span import choose_part, parse_as_of

    try:
        until = None if as_of is None else parse_as_of(as_of)
    except ValueError:
        raise CommandError(f"--as-of {as_of} is neither a position nor a time.") from None
    return lambda connection: choose_part(
        connection, first=first, as_of=until, workspace_id=workspace
    )


def _choose_store(target: tuple[str, Path] | None) -> StoreResult:
    from replay.analysis import store_in_schema

    if target is None:
        return store_in_schema
    if target[0] != PARQUET:
        raise CommandError(f"--to takes {PARQUET} and a folder, not {target[0]}.")
    from replay.parquet import store_in_folder

    return store_in_folder(target[1])


def _print_result(result: AnalysisResult, folder: Path | None) -> None:
    for name, table in result.tables.items():
        target = (
            f"{result.analysis.schema}.{name}" if folder is None else f"{folder / name}.parquet"
        )
        print_line(f"{len(table.rows):,} rows of {result.events:,} events in {target}")
