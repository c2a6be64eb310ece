"""Tables on standard output."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

PIPE_WIDTH_CHARS = 140
"""Width of a table when standard output is not a terminal."""


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right_aligned: Collection[str] = ()
) -> None:
    """Print the rows below the column names; a cell is never wrapped."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in columns:
        justify = "right" if name in right_aligned else "left"
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH_CHARS
    console.print(table)
