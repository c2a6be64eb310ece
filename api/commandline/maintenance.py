"""migrate, backup, restore: what keeps a database sound from version to version."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
