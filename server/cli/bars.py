"""Progress bars on standard error, where that is a terminal; elsewhere nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

OnProgress = Callable[[int, int], None]
"""Told how many are done, and of how many."""


class Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


@contextmanager
def bar(unit: str) -> Iterator[OnProgress]:
    """A bar that counts these units: done, rate, time left."""
    with steps(unit) as report:
        yield lambda done, total: report("", done, total)


@contextmanager
def steps(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """The same, and the name of the step at hand before it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as drawn:
        task = drawn.add_task("", total=None)

        def report(step: str, done: int, total: int) -> None:
            drawn.update(task, description=step, completed=min(done, total), total=total)

        yield report
