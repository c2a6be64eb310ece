"""The commands of `annals`, one module for each group, and the functions that print for them."""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import typer

PIPE_WIDTH_CHARS = 140
"""Width of a table when standard output is not a terminal."""


class CommandError(Exception):
    """A command cannot do its work; the message is one sentence for the user."""


def print_line(line: str) -> None:
    """Write a line to standard output and flush it, even into a pipe."""
    typer.echo(line)


def print_warning(line: str) -> None:
    """Write a line to standard error, so that it does not mix with the command's result."""
    typer.echo(line, err=True)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right_aligned: Collection[str] = ()
) -> None:
    """Print the rows below the column names; a cell is never wrapped."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in columns:
        justify: Literal["left", "right"] = "right" if name in right_aligned else "left"
        table.add_column(name, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH_CHARS
    console.print(table)
