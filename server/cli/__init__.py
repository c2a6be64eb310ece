"""The commands of `annals`, one module for each group."""

import typer


class CommandError(Exception):
    """A command cannot do its work; the message is one sentence for the user."""


def say(line: str) -> None:
    """Write a line for the user at once, even into a pipe."""
    typer.echo(line)


def warn(line: str) -> None:
    """Write a line to standard error, where it does not mix with a result."""
    typer.echo(line, err=True)
