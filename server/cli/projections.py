"""projections, rebuild, retry, verify: show, rebuild and check the read tables."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from runtime.process import end_with_supervisor
from runtime.settings import Settings
from server.cli import CommandError, print_line, print_table
from server.cli.options import JsonOption, PlanOption
from server.cli.progress import progress_bar, step_progress_bar
from server.postgres.databases import Database

COLUMNS = ("name", "version", "state", "position", "lag (events)", "lag (s)")
NUMERIC_COLUMNS = frozenset(COLUMNS[3:])
ALL = "all"

NameArgument = Annotated[str, typer.Argument(help="A projection, or all.")]
ThrottleOption = Annotated[
    float | None, typer.Option(min=1, help="Read at most this many events a second.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Number of processes; one per core by default.")
]
RollbackOption = Annotated[
    bool, typer.Option("--rollback", help="Swap the previous tables back in.")
]
ReplaceOption = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Replace the live tables, also damaged or missing ones, without comparing the rows.",
    ),
]
ReasonOption = Annotated[str, typer.Option(help="Why the tables are replaced; it is recorded.")]
RowsOption = Annotated[
    bool, typer.Option("--rows", help="Also compare all rows with a fresh fold of the log.")
]
AgainstOption = Annotated[
    Path | None,
    typer.Option(help="The folder of an older backup, which the log has to contain unchanged."),
]
CancelOption = Annotated[bool, typer.Option("--cancel", help="Stop a running rebuild.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Show the progress of each projection.")
    group.callback(invoke_without_command=True)(list_projections)
    app.add_typer(group, name="projections")
    app.command()(rebuild)
    app.command()(retry)
    app.command()(verify)
    app.command(hidden=True)(job)


def list_projections(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show name, version, state, position and lag of every projection."""
    if context.invoked_subcommand is not None:
        return
    from readmodels.operation.checkpoints import report
    from server.cli.local.database import with_reader

    with Database(Settings()) as database:
        rows = with_reader(database.settings, report)
    if as_json:
        print_line(orjson.dumps(rows).decode())
    else:
        print_table(COLUMNS, map(_cells, rows), NUMERIC_COLUMNS)


def rebuild(
    name: NameArgument,
    plan: PlanOption = False,
    throttle: ThrottleOption = None,
    workers: WorkersOption = None,
    rollback: RollbackOption = False,
    cancel: CancelOption = False,
    replace: ReplaceOption = False,
    reason: ReasonOption = "",
) -> None:
    """Rebuild a projection's tables from history beside the live ones, then swap them in.

    If the code did not change, the rebuilt rows must equal the live ones. --replace takes them
    nevertheless; the tables from before are kept for --rollback.
    """
    if replace and not reason.strip():
        raise CommandError("--replace needs --reason: why the live rows are not to be compared.")
    with Database(Settings()) as database, _refusals_reported():
        url = str(database.settings.projector_url)
        names = _select_names(name)
        if plan:
            _show_plan(url, names)
        elif cancel:
            _cancel(url, names)
        elif rollback:
            _roll_back(url, names)
        else:
            _rebuild(url, names, throttle, workers, reason.strip() if replace else None)


def retry(name: NameArgument) -> None:
    """Replay the parked entities of a projection and compare their rows with a fresh fold."""
    from projections.engine.rebuild.retry import retry as retry_parked
    from projections.engine.registry import PROJECTIONS, version
    from readmodels import table_definitions

    failed, definitions = 0, table_definitions()
    with Database(Settings()) as database, _refusals_reported():
        url = str(database.settings.projector_url)
        for each in _select_names(name):
            for outcome in retry_parked(url, PROJECTIONS[each], version(each, definitions[each])):
                entity = f"{each} {outcome.parked.entity_id}"
                if outcome.error is None:
                    events = outcome.parked.events
                    print_line(f"{entity}: repaired, {events} events, equal to a fresh fold")
                else:
                    failed += 1
                    print_line(f"{entity}: still parked: {outcome.error}")
    if failed:
        raise CommandError(f"{failed} entities are still parked.")
    print_line("No entity is parked.")


def verify(rows: RowsOption = False, against: AgainstOption = None) -> None:
    """Check the log, its protections, and that each projection consumed each event exactly once.

    Events are compared by count and digest of all columns; triggers, policies, rights and functions
    with those of this version.
    """
    from eventlog.connections import follow_connection
    from projections.engine.ledger.verification import verify_log
    from readmodels import table_definitions
    from server.postgres.backup import differences_from_backup, read_backup

    with (
        Database(Settings()) as database,
        _backup_errors_reported(),
        follow_connection(
            str(database.settings.projector_url), application_name="annals-verify"
        ) as connection,
    ):
        with progress_bar("positions of the log") as on_progress:
            found = verify_log(connection, table_definitions(), on_progress=on_progress)
        if against is not None:
            manifest = read_backup(against.expanduser().absolute())
            found += differences_from_backup(connection, manifest)
    for fault in found:
        print_line(fault)
    if not found:
        print_line("Every projection consumed each event of the log exactly once.")
        print_line("The triggers, policies, rights and functions are those of this version.")
        if against is not None:
            print_line(f"The log contains all that was final in {against}.")
    if rows:
        found += _differing_rows()
    if found:
        raise CommandError(f"{len(found)} faults were found: see above.")


def job(job_id: int) -> None:
    """Run a job that was requested over HTTP; a projector starts this command automatically."""
    from runtime.logs import configure_logging
    from server.processes.projection_job import kill_group_on_sigterm, run_projection_job

    settings = Settings()
    configure_logging(settings, "job")
    kill_group_on_sigterm()
    end_with_supervisor()
    if settings.projector_url is None:
        raise CommandError("ANNALS_PROJECTOR_URL has to name the database.")
    if not run_projection_job(settings, job_id):
        raise typer.Exit(1)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        row["version"],
        row["state"],
        f"{row['position']:,}",
        f"{row['lagEvents']:,}",
        f"{row['lagSeconds']:.1f}",
    ]


def _select_names(name: str) -> list[str]:
    from projections.engine.registry import PROJECTIONS

    if name == ALL:
        return list(PROJECTIONS)
    if name not in PROJECTIONS:
        raise CommandError(
            f"Unknown projection {name}; the projections are {', '.join(PROJECTIONS)}."
        )
    return [name]


def _show_plan(url: str, names: list[str]) -> None:
    from projections.engine.rebuild.plan import plan
    from readmodels import table_definitions

    definitions = table_definitions()
    for name in names:
        planned = plan(url, name, definitions[name])
        if planned.code_changed:
            change = f"{planned.live_version} -> {planned.new_version}"
        else:
            change = "the code did not change, so the rows are compared"
        print_line(
            f"{name}: {planned.events:,} events to read, about {planned.seconds:.0f} s,"
            f" {planned.bytes / 1e6:,.0f} MB now; {change}."
        )


def _cancel(url: str, names: list[str]) -> None:
    import psycopg

    from projections.engine.rebuild.progress import cancel

    with psycopg.connect(url, autocommit=True) as connection:
        stopped = [name for name in names if cancel(connection, name)]
    print_line(f"Stopping: {', '.join(stopped)}." if stopped else "No rebuild is running.")


def _roll_back(url: str, names: list[str]) -> None:
    from projections.engine.rebuild.runner import rollback
    from readmodels import table_definitions

    definitions = table_definitions()
    for name in names:
        rollback(url, name, definitions[name])
        print_line(f"{name}: the previous tables are live again.")


def _differing_rows() -> list[str]:
    """Compare the rows of all projections with a fresh fold; return those that differ."""
    from projections.engine.rebuild.runner import Rebuild
    from readmodels import table_definitions
    from server.cli.local.database import project_here

    with (
        Database(Settings()) as database,
        _refusals_reported(),
        step_progress_bar("events") as report,
    ):
        project_here(database.settings)
        url = str(database.settings.projector_url)
        requested_by = _operator()
        checked = Rebuild(
            url, table_definitions(), requested_by=requested_by, on_step=report
        ).verify()
    for each in checked:
        print_line(str(each))
    faulty = [each.projection for each in checked if each.fault]
    if faulty:
        print_line(
            f"These read tables differ from the log: {', '.join(faulty)}. If the log is right,"
            " annals rebuild --replace makes them again."
        )
    return faulty


@contextmanager
def _backup_errors_reported() -> Iterator[None]:
    from server.postgres.backup import BackupError

    try:
        yield
    except BackupError as error:
        raise CommandError(str(error)) from None


@contextmanager
def _refusals_reported() -> Iterator[None]:
    from projections.engine.rebuild.refusal import RebuildRefused

    try:
        yield
    except RebuildRefused as error:
        raise CommandError(str(error)) from None


def _operator() -> str:
    """The user of the operating system who runs this command, for the record."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def _rebuild(
    url: str,
    names: list[str],
    throttle: float | None,
    workers: int | None,
    replace_because: str | None,
) -> None:
    from projections.engine.rebuild.runner import Rebuild
    from readmodels import table_definitions

    definitions = table_definitions()
    with step_progress_bar("events") as report:
        Rebuild(
            url,
            {name: definitions[name] for name in names},
            replace_because=replace_because,
            requested_by=_operator(),
            throttle_events_per_s=throttle,
            workers=workers,
            on_step=report,
        ).run()
    print_line(
        f"Rebuilt and swapped in: {', '.join(names)}. The previous tables are kept (--rollback)."
    )
