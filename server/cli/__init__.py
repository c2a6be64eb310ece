"""The commands of `annals`, one module for each group."""

import typer


class CommandError(Exception):
    """A command cannot do its work; the message is one sentence for the user."""


def print_line(line: str) -> None:
    """Write a line to standard output and flush it, even into a pipe."""
    typer.echo(line)


def print_warning(line: str) -> None:
    """Write a line to standard error, so that it does not mix with the command's result."""
    typer.echo(line, err=True)
