"""projections: how far each projection is."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

from api.commandline import say
from api.databases import Database
from api.settings import Settings

COLUMNS = ("name", "version", "state", "position", "lag (events)", "lag (s)")
NUMBERS = frozenset(COLUMNS[3:])
PIPE_WIDTH_CHARS = 120
"""Width of the table where standard output is no terminal."""

AsJson = Annotated[bool, typer.Option("--json", help="One JSON array, for programs.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Show how far each projection is.")
    group.callback(invoke_without_command=True)(list_projections)
    app.add_typer(group, name="projections")


def list_projections(context: typer.Context, as_json: AsJson = False) -> None:
    """Show name, version, state, position and lag of every projection."""
    if context.invoked_subcommand is not None:
        return
    from api.direct import with_reader
    from readmodels.checkpoints import report

    with Database(Settings()) as database:
        rows = with_reader(database.settings, report)
    if as_json:
        say(orjson.dumps(rows).decode())
    else:
        _print(rows)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            row["version"],
            row["state"],
            f"{row['position']:,}",
            f"{row['lagEvents']:,}",
            f"{row['lagSeconds']:.1f}",
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH_CHARS
    console.print(table)
