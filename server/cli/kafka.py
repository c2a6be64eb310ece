"""relay, reconcile: publish the log to Kafka and compare the two."""

from typing import Annotated

import typer

from runtime.process import end_with_supervisor
from runtime.settings import Settings
from server.cli import CommandError, print_line, print_warning

EXIT_DIFFERENT = 1


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(relay)
    app.command()(reconcile)


def relay(
    recreate: Annotated[
        bool, typer.Option("--anew", help="Delete the topic, create it again, publish everything.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Stop at the end of the log.")] = False,
) -> None:
    """Publish the log to Kafka as it grows; a second relay waits until the first has ended."""
    from eventlog.kafka.topic import TopicRefused
    from server.processes.relay import run_relay

    end_with_supervisor()
    try:
        run_relay(_settings(), recreate=recreate, once=once)
    except TopicRefused as refused:
        raise CommandError(str(refused)) from None


def reconcile(
    after: Annotated[
        int, typer.Option(min=0, help="Compare only the events after this position.")
    ] = 0,
) -> None:
    """Compare log and topic event by event; the exit code is 1 if they differ."""
    from kafka.errors import KafkaError

    from eventlog.kafka.topic import TopicRefused
    from server.processes.relay import compare, describe

    def progress(done: int, total: int) -> None:
        if done:
            print_warning(f"  {done} of {total} messages")

    try:
        report = compare(_settings(), after, progress)
    except (TopicRefused, KafkaError) as error:
        raise CommandError(str(error)) from None
    for line in describe(report):
        print_line(line)
    if not report.is_equal:
        raise typer.Exit(EXIT_DIFFERENT)


def _settings() -> Settings:
    settings = Settings()
    if settings.projector_url is None:
        raise CommandError("ANNALS_PROJECTOR_URL has to name the database of the log.")
    return settings
