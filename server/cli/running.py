"""up, demo, serve, project, send, work: what runs Annals or a part of it."""

import json
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from runtime.home import demo_file, read_json, token_file, write_private
from runtime.process import end_with_supervisor
from runtime.settings import Settings
from server.cli import CommandError, say, warn
from server.cli.analysis import (
    AsOfOption,
    FileOption,
    First,
    TargetOption,
    WorkspaceOption,
    project_file,
)
from server.cli.bars import bar
from server.processes.supervisor import up as run_up

ACCOUNTS_MAX = 10_000_000


class SourceOption(StrEnum):
    """Where a projector reads."""

    LOG = "log"
    KAFKA = "kafka"


Port = Annotated[
    int | None, typer.Option(min=1, max=65_535, help="Port of the API; ANNALS_PORT or 8321.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(up)
    app.command()(demo)
    app.command()(serve)
    app.command()(project)
    app.command()(send)
    app.command()(work)


def up(port: Port = None) -> None:
    """Start everything here: PostgreSQL, API, projector, sender, worker. Ctrl-C stops it."""
    settings = _settings(port)

    def prepare(ready: Settings) -> str:
        from server.cli.local.demo import bootstrap

        return _token(settings, lambda: bootstrap(ready))

    run_up(settings, prepare, say)


def demo(
    accounts: Annotated[int, typer.Option(min=1, max=ACCOUNTS_MAX, help="How many.")] = 1_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same data.")] = 1,
    port: Port = None,
) -> None:
    """Like up, with generated data; a second start finds the data of the first."""
    settings = _settings(port)
    run_up(settings, lambda ready: _demo_token(settings, ready, accounts, seed), say)


def serve() -> None:
    """Run the API alone, on the database that ANNALS_APP_URL names."""
    # Here and not above: the other commands start quicker without uvicorn.
    from server.processes.serving import serve_api

    end_with_supervisor()
    settings = Settings()
    _require_url(settings.app_url, "ANNALS_APP_URL")
    serve_api(settings)


def project(
    source: Annotated[
        SourceOption | None, typer.Option(help="Where it reads; ANNALS_SOURCE or the log.")
    ] = None,
    file: FileOption = None,
    first: First = 0,
    as_of: AsOfOption = None,
    workspace: WorkspaceOption = None,
    target: TargetOption = None,
) -> None:
    """Run a projector alone, on the database that ANNALS_PROJECTOR_URL names.

    From Kafka, several in several places share the partitions of the topic. With --file, run an
    analyst's projection over history instead, once (docs/how-to/write-a-projection.md).
    """
    if file is not None:
        project_file(file, first, as_of, workspace, target)
        return
    if first or as_of or workspace or target:
        raise CommandError("--from, --as-of, --workspace and --to go with --file.")
    from server.processes.projector import run_projector

    end_with_supervisor()
    settings = Settings() if source is None else Settings(source=source.value)
    _require_url(settings.projector_url, "ANNALS_PROJECTOR_URL")
    run_projector(settings)


def send() -> None:
    """Run a sender of text messages alone, on the database that ANNALS_SENDER_URL names.

    Several in several places share the work (docs/how-to/send-sms.md).
    """
    from runtime.gateways import GatewaySettingsError
    from server.processes.sender import run_sender

    end_with_supervisor()
    settings = Settings()
    _require_url(settings.sender_url, "ANNALS_SENDER_URL")
    try:
        run_sender(settings)
    except GatewaySettingsError as error:
        raise CommandError(str(error)) from None


def work() -> None:
    """Run a worker alone, on the database that ANNALS_APP_URL names: it does jobs.

    Several in several places share the jobs; one that dies is replaced by the others.
    """
    from server.processes.worker import run_worker

    end_with_supervisor()
    settings = Settings()
    _require_url(settings.app_url, "ANNALS_APP_URL")
    run_worker(settings)


def _settings(port: int | None) -> Settings:
    # Given as an argument and not copied in, so that it is checked like the rest.
    return Settings() if port is None else Settings(port=port)


def _require_url(url: str | None, name: str) -> None:
    """Each process needs the URL of its own role, and is better off without the others."""
    if url is None:
        raise CommandError(f"{name} has to name the database; annals up needs nothing.")


def _token(settings: Settings, issue: Callable[[], str]) -> str:
    """The access token of this home, issued at the first start and kept in a private file."""
    path = token_file(settings)
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    token = issue()
    write_private(path, f"{token}\n")
    return token


def _demo_token(settings: Settings, ready: Settings, accounts: int, seed: int) -> str:
    """The token of the demo workspace, which is filled unless an earlier start has done so."""
    from server.cli.local.demo import fill

    kept, record_file = token_file(settings), demo_file(settings)
    record = read_json(record_file)
    if record and kept.exists():
        if (record.get("accounts"), record.get("seed")) != (accounts, seed):
            warn(
                f"This home has demo data of {record.get('accounts')} accounts, seed"
                f" {record.get('seed')}; it stays as it is (ANNALS_HOME names another home)."
            )
        return kept.read_text(encoding="utf-8").strip()
    say(f"Making demo data: {accounts} accounts ...")
    with bar("accounts") as progress:
        result = fill(ready, accounts=accounts, seed=seed, progress=progress)
    write_private(kept, f"{result.token}\n")
    content = {"accounts": accounts, "seed": seed, "workspace_id": str(result.workspace_id)}
    write_private(record_file, json.dumps(content))
    return result.token
