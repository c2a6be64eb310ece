"""migrate, backup, restore, psql, mend-claims: upgrade, back up and check a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from psycopg.conninfo import make_conninfo

from runtime.settings import Settings
from server.cli import CommandError, print_line
from server.cli.options import PASS_ON_ARGUMENTS, PlanOption, WorkspaceOption
from server.postgres.databases import DATABASE_NAME, Database, create_roles

RehearseOption = Annotated[
    bool, typer.Option("--rehearse", help="Run it on a copy of the embedded database.")
]
NewFolderArgument = Annotated[Path, typer.Argument(help="An empty or new folder.")]
BackupArgument = Annotated[Path, typer.Argument(help="The folder of a backup.")]
NewHomeOption = Annotated[Path, typer.Option("--into", help="An empty or new home.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(migrate)
    app.command()(backup)
    app.command()(restore)
    app.command(context_settings=PASS_ON_ARGUMENTS)(psql)
    app.command("mend-claims")(correct_claims)


def migrate(plan: PlanOption = False, rehearse: RehearseOption = False) -> None:
    """Upgrade the database's tables to this version; the service may be running."""
    settings = Settings()
    if not (plan or rehearse):
        create_roles(settings)
    with Database(settings) as database, _expected_errors_reported():
        if plan:
            _show_plan(str(database.settings.owner_url))
        elif rehearse:
            _rehearse(settings)
        else:
            _upgrade(database.settings)


def backup(folder: NewFolderArgument) -> None:
    """Back up the database into a folder; the service may be running."""
    from server.postgres.backup import back_up
    from server.postgres.clients import Clients

    settings = Settings()
    target = folder.expanduser().absolute()
    with Database(settings), _expected_errors_reported():
        clients = Clients.of_home(settings.home)
        url = _superuser_url(settings)
        manifest = back_up(url, clients, target, datetime.now(UTC), _home_files(settings))
    contents = manifest.contents
    print_line(f"{contents.events:,} events up to position {contents.position} are in {folder}.")


def restore(folder: BackupArgument, into: NewHomeOption) -> None:
    """Restore a backup into a new home and verify it by replaying the log."""
    from server.postgres.restore import restore as restore_backup

    home = into.expanduser().absolute()
    with _expected_errors_reported():
        result = restore_backup(folder.expanduser().absolute(), home, print_line)
    if result.equal:
        print_line(f"Replayed, and equal to the restored rows: {', '.join(result.equal)}.")
    if result.skipped:
        print_line(
            f"Not replayed, written by other code or from Kafka: {', '.join(result.skipped)}."
        )
    print_line(f"Start it with ANNALS_HOME={home} annals up.")
    if result.different:
        raise CommandError(
            "The log is restored, but these read tables of the backup differ from a replay of it:"
            f" {', '.join(result.different)} (annals rebuild corrects them)."
        )


def psql(context: typer.Context) -> None:
    """Open psql as the projector's role; all arguments are passed to psql."""
    import subprocess

    from server.postgres.clients import Clients

    settings = Settings()
    with Database(settings) as database, _expected_errors_reported():
        clients = Clients.of_home(settings.home)
        url = str(database.settings.projector_url)
        command = [clients.path("psql"), *context.args]
        code = subprocess.run(command, env=clients.environment(url), check=False).returncode
    raise typer.Exit(code)


def correct_claims(workspace: WorkspaceOption = None) -> None:
    """Compare the times that appointments claim with the log, and correct the differences.

    Every write keeps them right; this is for a database that was changed by hand. The service may
    be running.
    """
    import psycopg

    from eventlog.scope import Scope
    from runtime.composition import open_writing
    from server.cli.local.database import catch_up, load_home_key

    with Database(Settings()) as database:
        settings = database.settings
        if workspace is None:
            catch_up(settings)
            workspace = load_home_key(settings)[1].workspace_id
        with (
            open_writing(settings) as writing,
            psycopg.connect(str(settings.owner_url), autocommit=True) as owner,
        ):
            corrected = writing.log.repair_claims(Scope(workspace), owner)
    number = len(corrected)
    print_line(f"{number:,} corrected." if number else "The claimed times are those of the log.")


def _show_plan(owner_url: str) -> None:
    from server.postgres.upgrade import plan_upgrade

    plan = plan_upgrade(owner_url)
    for each in plan.migrations:
        note = "" if each.is_transactional else " (not in one transaction)"
        print_line(f"{each.file}: {each.purpose}{note}.")
    for name in plan.new_projections:
        print_line(f"projection {name}: its tables are created; the projector fills them.")
    if not (plan.migrations or plan.new_projections):
        print_line("Nothing to do.")
    if plan.changed_projections:
        names = ", ".join(plan.changed_projections)
        print_line(f"Not part of it: the code of these changed, annals rebuild them: {names}.")


def _upgrade(settings: Settings) -> None:
    from server.postgres.upgrade import upgrade

    applied = upgrade(str(settings.owner_url), str(settings.projector_url))
    for name in applied:
        print_line(name)
    print_line(f"{len(applied)} steps done." if applied else "Nothing to do.")


def _rehearse(settings: Settings) -> None:
    from server.postgres.rehearsal import rehearse

    if settings.has_database_urls:
        raise CommandError(
            "--rehearse copies the embedded database: restore a backup of your database into a home"
            " (annals restore) and rehearse there."
        )
    done = rehearse(settings.home, lambda step, seconds: print_line(f"{step}: {seconds:.2f} s"))
    print_line(f"{len(done)} steps done on a copy; your database is unchanged.")


def _home_files(settings: Settings) -> dict[str, Path]:
    """Return the home's files that belong to the database, by their name in a backup."""
    from runtime.home import demo_file, token_file

    return {"token": token_file(settings), "demo.json": demo_file(settings)}


def _superuser_url(settings: Settings) -> str:
    """Return the URL of the database for a role that may read all of the log."""
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
def _expected_errors_reported() -> Iterator[None]:
    """Raise the errors that these commands expect as `CommandError`."""
    from eventlog.migrations import MigrationBlocked
    from replay.folders import FolderInUse
    from server.postgres.backup import BackupError
    from server.postgres.clients import ClientError
    from server.postgres.rehearsal import RehearsalError

    try:
        yield
    except (BackupError, FolderInUse, ClientError, RehearsalError, MigrationBlocked) as error:
        raise CommandError(str(error)) from None
