"""mend-claims: whose time is taken, made to say what the log says."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from api.commandline import say
from api.databases import Database
from api.settings import Settings

Workspace = Annotated[UUID | None, typer.Option(help="Not the one of the home.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("mend-claims")(mend_claims)


def mend_claims(workspace: Workspace = None) -> None:
    """Compare the times that appointments take with the log, and correct what differs.

    They are kept by every write and need no care; this is for a database that was changed by hand.
    The service may run meanwhile.
    """
    from api.direct import catch_up, workspace_of_home
    from api.wiring import open_writing
    from eventlog.scope import Scope

    with Database(Settings()) as database:
        settings = database.settings
        if workspace is None:
            catch_up(settings)
            workspace = workspace_of_home(settings)[1].workspace_id
        with open_writing(settings) as writing:
            mended = writing.log.mend_claims(Scope(workspace))
    say(f"{len(mended):,} were mended." if mended else "All is as the log says.")
