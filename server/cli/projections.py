"""projections, rebuild, retry, verify: show, rebuild and check read tables."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

from runtime.process import end_with_supervisor
from runtime.settings import Settings
from server.cli import CommandError, say
from server.cli.bars import steps
from server.postgres.databases import Database

COLUMNS = ("name", "version", "state", "position", "lag (events)", "lag (s)")
NUMBERS = frozenset(COLUMNS[3:])
PIPE_WIDTH_CHARS = 120
"""Width of the table where standard output is no terminal."""

AsJson = Annotated[bool, typer.Option("--json", help="One JSON array, for programs.")]
ALL = "all"

Name = Annotated[str, typer.Argument(help="A projection, or all.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")]
Throttle = Annotated[
    float | None, typer.Option(min=1, help="Read no more than this many events a second.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; one a core by default.")]
Back = Annotated[bool, typer.Option("--rollback", help="Swap back the tables from before.")]
Stop = Annotated[bool, typer.Option("--cancel", help="Stop a rebuild that runs.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Show how far each projection is.")
    group.callback(invoke_without_command=True)(list_projections)
    app.add_typer(group, name="projections")
    app.command()(rebuild)
    app.command()(retry)
    app.command()(verify)
    app.command(hidden=True)(job)


def list_projections(context: typer.Context, as_json: AsJson = False) -> None:
    """Show name, version, state, position and lag of every projection."""
    if context.invoked_subcommand is not None:
        return
    from readmodels.operation.checkpoints import report
    from server.cli.local.database import with_reader

    with Database(Settings()) as database:
        rows = with_reader(database.settings, report)
    if as_json:
        say(orjson.dumps(rows).decode())
    else:
        _print(rows)


def rebuild(
    name: Name,
    plan: PlanOnly = False,
    throttle: Throttle = None,
    workers: Workers = None,
    rollback: Back = False,
    cancel: Stop = False,
) -> None:
    """Make a projection's tables again from all of history, beside the live ones, and swap them."""
    from projections.engine.rebuild.swap import RebuildRefused

    with Database(Settings()) as database:
        url = str(database.settings.projector_url)
        names = _names(name)
        try:
            if plan:
                _show_plan(url, names)
            elif cancel:
                _cancel(url, names)
            elif rollback:
                _roll_back(url, names)
            else:
                _rebuild(url, names, throttle, workers)
        except RebuildRefused as error:
            raise CommandError(str(error)) from None


def retry(name: Name) -> None:
    """Replay the parked entities of a projection, and prove their rows equal to a fresh fold."""
    from projections.engine.rebuild.retry import retry as retry_parked
    from projections.engine.registry import PROJECTIONS

    failed = 0
    with Database(Settings()) as database:
        url = str(database.settings.projector_url)
        for each in _names(name):
            for outcome in retry_parked(url, PROJECTIONS[each]):
                what = f"{each} {outcome.parked.entity_id}"
                if outcome.error is None:
                    say(f"{what}: back, {outcome.parked.events} events, equal to a fresh fold")
                else:
                    failed += 1
                    say(f"{what}: still parked: {outcome.error}")
    if failed:
        raise CommandError(f"{failed} entities are still parked.")
    say("Nothing is parked.")


def verify() -> None:
    """Compare what every projection consumed with the log, by count and digest."""
    from eventlog.connections import follow_connection
    from projections.engine.ledger.coverage import verify_all

    with (
        Database(Settings()) as database,
        follow_connection(
            str(database.settings.projector_url), application_name="annals-verify"
        ) as connection,
    ):
        found = verify_all(connection)
    for gap in found:
        say(str(gap))
    if found:
        raise CommandError(f"{len(found)} ranges differ from the log.")
    say("Every projection consumed what the log holds, each event once.")


def job(job_id: int) -> None:
    """Do what was asked for over HTTP; a projector starts this by itself."""
    from runtime.logs import configure_logging
    from server.processes.projection_job import end_with_the_group, perform

    settings = Settings()
    configure_logging(settings, "job")
    end_with_the_group()
    end_with_supervisor()
    if settings.projector_url is None:
        raise CommandError("ANNALS_PROJECTOR_URL has to name the database.")
    if not perform(settings, job_id):
        raise typer.Exit(1)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            row["version"],
            row["state"],
            f"{row['position']:,}",
            f"{row['lagEvents']:,}",
            f"{row['lagSeconds']:.1f}",
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH_CHARS
    console.print(table)


def _names(name: str) -> list[str]:
    from projections.engine.registry import PROJECTIONS

    if name == ALL:
        return list(PROJECTIONS)
    if name not in PROJECTIONS:
        raise CommandError(f"There is no projection {name}; there are {', '.join(PROJECTIONS)}.")
    return [name]


def _show_plan(url: str, names: list[str]) -> None:
    from projections.engine.rebuild.rebuild import plan
    from readmodels import table_definitions

    definitions = table_definitions()
    for name in names:
        planned = plan(url, name, definitions[name])
        change = f"{planned.live_version} -> {planned.new_version}"
        same = (
            "the code did not change, so rows are compared" if not planned.code_changed else change
        )
        say(
            f"{name}: {planned.events:,} events to read, about {planned.seconds:.0f} s,"
            f" {planned.bytes / 1e6:,.0f} MB now; {same}."
        )


def _cancel(url: str, names: list[str]) -> None:
    import psycopg

    from projections.engine.rebuild.progress import cancel

    with psycopg.connect(url, autocommit=True) as connection:
        stopped = [name for name in names if cancel(connection, name)]
    say(f"Asked to stop: {', '.join(stopped)}." if stopped else "No rebuild runs.")


def _roll_back(url: str, names: list[str]) -> None:
    from projections.engine.rebuild.rebuild import rollback
    from readmodels import table_definitions

    definitions = table_definitions()
    for name in names:
        rollback(url, name, definitions[name])
        say(f"{name}: the tables from before are live again.")


def _rebuild(url: str, names: list[str], throttle: float | None, workers: int | None) -> None:
    from projections.engine.rebuild.rebuild import Rebuild
    from readmodels import table_definitions

    definitions = table_definitions()
    with steps("events") as show:
        Rebuild(
            url,
            {name: definitions[name] for name in names},
            throttle_events_per_s=throttle,
            workers=workers,
            say=show,
        ).run()
    say(
        f"Rebuilt and swapped in: {', '.join(names)}. The tables from before are kept (--rollback)."
    )
