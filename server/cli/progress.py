"""Progress on standard error: a bar on a terminal, elsewhere a line from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_INTERVAL_S = 5.0
"""Seconds between two lines of progress if no terminal shows a bar."""

OnProgress = Callable[[int, int], None]
"""Called with the number of units done and the total."""


class Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


@contextmanager
def progress_bar(unit: str) -> Iterator[OnProgress]:
    """Show a bar with the units done, the rate and the time left. Yield its update function."""
    with step_progress_bar(unit) as report:
        yield lambda done, total: report("", done, total)


@contextmanager
def step_progress_bar(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar with the name of the current step. Yield its update function."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        written_at_s = time.monotonic()

        def report(step: str, done: int, total: int) -> None:
            nonlocal written_at_s
            progress.update(task, description=step, completed=min(done, total), total=total)
            if not console.is_terminal and time.monotonic() - written_at_s >= LINE_INTERVAL_S:
                written_at_s = time.monotonic()
                named = f"{step}: " if step else ""
                typer.echo(f"{named}{done:,} of {total:,} {unit}", err=True)

        yield report
