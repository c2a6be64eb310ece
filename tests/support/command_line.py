"""The command line, run in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from server.cli import CommandError
from server.cli.__main__ import app


def annals(*arguments: str) -> str:
    """Run a command and return what it prints. Raises what the command raises."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(*arguments: str) -> str:
    """Run a command that must fail with `CommandError`; return what it prints before."""
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, CommandError), result.output
    return result.stdout
