"""migrate, backup, restore, psql, mend-claims: upgrade, save and check a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from psycopg.conninfo import make_conninfo

from runtime.settings import Settings
from server.cli import CommandError, say
from server.postgres.databases import DATABASE_NAME, Database, make_roles

PlanOnly = Annotated[bool, typer.Option("--plan", help="Say what would run, and run nothing.")]
Rehearse = Annotated[
    bool, typer.Option("--rehearse", help="Run it on a copy of the embedded database.")
]
Folder = Annotated[Path, typer.Argument(help="A folder that is empty or not there yet.")]
BackupArgument = Annotated[Path, typer.Argument(help="The folder of a backup.")]
Workspace = Annotated[UUID | None, typer.Option(help="Not the one of the home.")]
Into = Annotated[Path, typer.Option("--into", help="A home that is empty or not there yet.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(migrate)
    app.command()(backup)
    app.command()(restore)
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(context_settings=passed_on)(psql)
    app.command("mend-claims")(mend_claims)


def migrate(plan: PlanOnly = False, rehearse: Rehearse = False) -> None:
    """Bring the database's tables to this version; while the service runs, too."""
    settings = Settings()
    if not (plan or rehearse):
        make_roles(settings)
    with Database(settings) as database, _as_sentences():
        if plan:
            _show_plan(str(database.settings.owner_url))
        elif rehearse:
            _rehearse(settings)
        else:
            _upgrade(database.settings)


def backup(folder: Folder) -> None:
    """Back up the database into a folder; while the service runs, too."""
    from server.postgres.backup import back_up
    from server.postgres.clients import Clients

    settings = Settings()
    place = folder.expanduser().absolute()
    with Database(settings), _as_sentences():
        clients = Clients.of_home(settings.home)
        url = _superuser_url(settings)
        manifest = back_up(url, clients, place, datetime.now(UTC), _home_files(settings))
    contents = manifest.contents
    say(f"{contents.events:,} events up to position {contents.position} are in {folder}.")


def restore(folder: BackupArgument, into: Into) -> None:
    """Restore a backup into a new home, and prove it by replaying the log."""
    from server.postgres.restore import restore as restore_backup

    home = into.expanduser().absolute()
    with _as_sentences():
        replayed = restore_backup(folder.expanduser().absolute(), home, say)
    if replayed.equal:
        say(f"Replayed, and equal to what was restored: {', '.join(replayed.equal)}.")
    if replayed.skipped:
        say(f"Not replayed, made by other code or from Kafka: {', '.join(replayed.skipped)}.")
    say(f"Start it with ANNALS_HOME={home} annals up.")
    if replayed.different:
        names = ", ".join(replayed.different)
        raise CommandError(
            f"The log is restored, but these read tables, as they were backed up, are not what it"
            f" comes to: {names} (annals rebuild makes them anew)."
        )


def psql(context: typer.Context) -> None:
    """Open PostgreSQL's psql as the projector's role; what follows is passed on to it."""
    import subprocess

    from server.postgres.clients import Clients

    settings = Settings()
    with Database(settings) as database, _as_sentences():
        clients = Clients.of_home(settings.home)
        url = str(database.settings.projector_url)
        command = [clients.path("psql"), *context.args]
        code = subprocess.run(command, env=clients.environment(url), check=False).returncode
    raise typer.Exit(code)


def mend_claims(workspace: Workspace = None) -> None:
    """Compare the times that appointments take with the log, and correct what differs.

    They are kept by every write and need no care; this is for a database that was changed by hand.
    The service may run meanwhile.
    """
    from eventlog.scope import Scope
    from runtime.composition import open_writing
    from server.cli.local.database import catch_up, workspace_of_home

    with Database(Settings()) as database:
        settings = database.settings
        if workspace is None:
            catch_up(settings)
            workspace = workspace_of_home(settings)[1].workspace_id
        with open_writing(settings) as writing:
            mended = writing.log.mend_claims(Scope(workspace))
    say(f"{len(mended):,} were mended." if mended else "All is as the log says.")


def _show_plan(owner_url: str) -> None:
    from server.postgres.upgrade import plan_upgrade

    plan = plan_upgrade(owner_url)
    for each in plan.migrations:
        note = "" if each.is_transactional else " (not in one transaction)"
        say(f"{each.file}: {each.purpose}{note}.")
    for name in plan.new_projections:
        say(f"projection {name}: its tables are made; the projector fills them.")
    if not (plan.migrations or plan.new_projections):
        say("Nothing to do.")
    if plan.changed_projections:
        names = ", ".join(plan.changed_projections)
        say(f"Not part of it, but the code of these changed; annals rebuild them: {names}.")


def _upgrade(settings: Settings) -> None:
    from server.postgres.upgrade import upgrade

    applied = upgrade(str(settings.owner_url), str(settings.projector_url))
    for name in applied:
        say(name)
    say(f"{len(applied)} steps done." if applied else "Nothing to do.")


def _rehearse(settings: Settings) -> None:
    from server.postgres.rehearsal import rehearse

    if settings.has_database_urls:
        raise CommandError(
            "--rehearse copies the embedded database: restore a backup of yours into a home"
            " (annals restore) and rehearse there."
        )
    done = rehearse(settings.home, lambda step, seconds: say(f"{step}: {seconds:.2f} s"))
    say(f"{len(done)} steps done, on a copy; your database is as it was.")


def _home_files(settings: Settings) -> dict[str, Path]:
    """Where the home keeps what belongs to the database that the settings name."""
    from runtime.home import demo_file, token_file

    return {"token": token_file(settings), "demo.json": demo_file(settings)}


def _superuser_url(settings: Settings) -> str:
    """The URL of a role that sees all of the log, for the database that the settings name."""
    from psycopg.conninfo import conninfo_to_dict

    from server.postgres.embedded import superuser_url_of_running

    if not settings.has_database_urls:
        return superuser_url_of_running(settings.home, DATABASE_NAME)
    if settings.superuser_url is None:
        raise CommandError(
            "ANNALS_SUPERUSER_URL has to name a superuser: no other role may read all of the log."
        )
    name = conninfo_to_dict(str(settings.owner_url))["dbname"]
    return make_conninfo(settings.superuser_url, dbname=name)


@contextmanager
def _as_sentences() -> Iterator[None]:
    """What is expected to go wrong here reaches the user as one sentence."""
    from eventlog.migrations import MigrationBlocked
    from replay.folders import FolderInUse
    from server.postgres.backup import BackupError
    from server.postgres.clients import ClientError
    from server.postgres.rehearsal import RehearsalError

    try:
        yield
    except (BackupError, FolderInUse, ClientError, RehearsalError, MigrationBlocked) as error:
        raise CommandError(str(error)) from None
