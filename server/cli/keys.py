"""keys: the API keys of a workspace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer

from domain.shared.refusals import Refusal
from runtime.settings import Settings
from server.cli import CommandError, say, warn
from server.postgres.databases import Database

COLUMNS = ("id", "name", "role", "createdAt", "expiresAt")
PIPE_WIDTH_CHARS = 140
"""Width of the table where standard output is no terminal."""

Workspace = Annotated[UUID | None, typer.Option(help="Not the one of the home.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON array, for programs.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")
    group.command()(create)
    group.command("list")(list_keys)
    group.command()(revoke)
    app.add_typer(group, name="keys")


def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    role: Annotated[
        str, typer.Option(help="admin, member, auditor, analyst or read-only.")
    ] = "member",
    workspace: Workspace = None,
) -> None:
    """Make a key; its token is shown once."""
    from commands.keys import issue_key
    from eventlog.scope import Scope
    from runtime.composition import open_writing
    from server.cli.local.database import catch_up

    with _workspace(workspace) as (settings, workspace_id):
        scope = Scope(workspace_id, command="issue_key")
        with open_writing(settings) as writing, _refusals():
            token = issue_key(writing.commands, scope, {"name": name, "role": role}).token
        catch_up(settings)
    say(token)
    warn("Keep it: it is not shown again.")


def list_keys(workspace: Workspace = None, as_json: AsJson = False) -> None:
    """Show the keys that are good, newest first; never their secrets."""
    from readmodels.keys import list_keys as read_keys
    from server.cli.local.database import with_workspace_reader

    with _workspace(workspace) as (settings, workspace_id):
        rows = with_workspace_reader(
            settings, workspace_id, lambda connection: read_keys(connection, workspace_id)
        )
    if as_json:
        say(rows.decode())
    else:
        _print(orjson.loads(rows))


def revoke(
    key_id: Annotated[UUID, typer.Argument(help="Id of the key, as the list shows it.")],
    workspace: Workspace = None,
) -> None:
    """Make a key useless from now on, for good."""
    from domain.api_key import ApiKey
    from eventlog.scope import Scope
    from runtime.composition import open_writing
    from server.cli.local.database import catch_up

    with _workspace(workspace) as (settings, workspace_id):
        scope = Scope(workspace_id, command="revoke_key")
        with open_writing(settings) as writing, _refusals():
            writing.commands.delete(scope, ApiKey, key_id)
        catch_up(settings)
    say(f"Key {key_id} is revoked.")


@contextmanager
def _workspace(workspace: UUID | None) -> Iterator[tuple[Settings, UUID]]:
    """Settings with a database, and the workspace to act in."""
    from server.cli.local.database import catch_up, workspace_of_home

    with Database(Settings()) as database:
        catch_up(database.settings)
        if workspace is None:
            workspace = workspace_of_home(database.settings)[1].workspace_id
        yield database.settings, workspace


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        raise CommandError(str(refusal)) from None


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in COLUMNS:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(str(row[name] or "") for name in COLUMNS))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH_CHARS
    console.print(table)
