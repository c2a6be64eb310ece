"""keys, operators: issue, list and revoke API keys of a workspace and operator keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from uuid import UUID

import orjson
import typer

from domain.shared.refusals import Refusal
from runtime.settings import Settings
from server.cli import CommandError, print_line, print_table, print_warning
from server.cli.options import JsonOption, WorkspaceOption

COLUMNS = ("id", "name", "role", "createdAt", "expiresAt")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")
    group.command()(create)
    group.command("list")(list_keys)
    group.command()(revoke)
    app.add_typer(group, name="keys")
    operators = typer.Typer(
        no_args_is_help=True, help="Issue, list and revoke operator keys, which span workspaces."
    )
    operators.command()(issue)
    operators.command("list")(list_operators)
    operators.command("revoke")(revoke_operator)
    app.add_typer(operators, name="operators")


def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    role: Annotated[
        str, typer.Option(help="admin, member, auditor, analyst or read-only.")
    ] = "member",
    workspace: WorkspaceOption = None,
) -> None:
    """Create a key; its token is shown only once."""
    from server.cli.local.database import open_workspace

    with open_workspace(workspace) as (settings, workspace_id):
        _issue(settings, workspace_id, name, role)


def issue(name: Annotated[str, typer.Argument(help="Whose key it is.")]) -> None:
    """Issue an operator key; its token is shown only once."""
    from domain.api_key import OPERATORS, Role
    from server.cli.local.database import open_workspace

    with open_workspace(OPERATORS) as (settings, _):
        _issue(settings, OPERATORS, name, Role.OPERATOR)


def list_keys(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show the valid keys, newest first, without their secrets."""
    from readmodels.keys import list_keys as read_keys
    from server.cli.local.database import open_workspace, with_workspace_reader

    with open_workspace(workspace) as (settings, workspace_id):
        rows = with_workspace_reader(
            settings, workspace_id, lambda connection: read_keys(connection, workspace_id)
        )
    if as_json:
        print_line(rows.decode())
    else:
        keys = orjson.loads(rows)
        print_table(COLUMNS, [[str(key[name] or "") for name in COLUMNS] for key in keys])


def list_operators(as_json: JsonOption = False) -> None:
    """Show the valid operator keys, newest first, without their secrets."""
    from domain.api_key import OPERATORS

    list_keys(OPERATORS, as_json)


def revoke(
    key_id: Annotated[UUID, typer.Argument(help="Id of the key, as `keys list` shows it.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Revoke a key at once and for good."""
    from domain.api_key import ApiKey
    from eventlog.scope import Scope
    from runtime.composition import open_key_writing
    from server.cli.local.database import catch_up, open_workspace

    with open_workspace(workspace) as (settings, workspace_id):
        scope = Scope(workspace_id, command="revoke_key")
        with open_key_writing(settings) as writing, _refusals_as_errors():
            writing.commands.delete(scope, ApiKey, key_id)
        catch_up(settings)
    print_line(f"Key {key_id} is revoked.")


def revoke_operator(
    key_id: Annotated[UUID, typer.Argument(help="Id of the key, as `operators list` shows it.")],
) -> None:
    """Revoke an operator key at once and for good."""
    from domain.api_key import OPERATORS

    revoke(key_id, OPERATORS)


def _issue(settings: Settings, workspace_id: UUID, name: str, role: str) -> None:
    """Issue a key in the owner's role and print its token."""
    from commands.keys import issue_key
    from eventlog.scope import Scope
    from runtime.composition import open_key_writing
    from server.cli.local.database import catch_up

    scope = Scope(workspace_id, command="issue_key")
    with open_key_writing(settings) as writing, _refusals_as_errors():
        token = issue_key(writing.commands, scope, {"name": name, "role": role}).token
    catch_up(settings)
    print_line(token)
    print_warning("Keep the token: it is not shown again.")


@contextmanager
def _refusals_as_errors() -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        raise CommandError(str(refusal)) from None
