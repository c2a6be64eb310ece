"""up, demo, serve, project, send, work: run Annals or one of its processes."""

import json
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from runtime.home import demo_file, read_json, token_file, write_private
from runtime.process import end_with_supervisor
from runtime.settings import Settings
from server.cli import CommandError, print_line, print_warning
from server.cli.analysis import (
    AsOfOption,
    FileOption,
    FirstPositionOption,
    OnlyWorkspaceOption,
    TargetOption,
    project_file,
)
from server.cli.progress import progress_bar
from server.processes.supervisor import Prepared, run_supervisor

ACCOUNTS_MAX = 10_000_000


class SourceOption(StrEnum):
    """The source that a projector reads from."""

    LOG = "log"
    KAFKA = "kafka"


PortOption = Annotated[
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


def up(port: PortOption = None) -> None:
    """Start PostgreSQL, API, projector, sender and worker on this machine. Ctrl-C stops them."""
    settings = _load_settings(port)

    def prepare(ready: Settings) -> Prepared:
        from server.cli.local.demo import bootstrap

        return _load_or_issue_token(settings, lambda: bootstrap(ready))

    run_supervisor(settings, prepare, print_line)


def demo(
    accounts: Annotated[
        int, typer.Option(min=1, max=ACCOUNTS_MAX, help="Number of accounts.")
    ] = 1_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same data.")] = 1,
    port: PortOption = None,
) -> None:
    """Like up, with generated data; the next start uses the same data again."""
    settings = _load_settings(port)

    def prepare(ready: Settings) -> Prepared:
        return _load_or_fill_demo(settings, ready, accounts, seed)

    run_supervisor(settings, prepare, print_line)


def serve() -> None:
    """Run only the API, on the database of ANNALS_APP_URL."""
    # Imported here, so that the other commands start without uvicorn.
    from server.processes.serving import serve_api

    end_with_supervisor()
    settings = Settings()
    _require_url(settings.app_url, "ANNALS_APP_URL")
    serve_api(settings)


def project(
    source: Annotated[
        SourceOption | None, typer.Option(help="The source; ANNALS_SOURCE or the log by default.")
    ] = None,
    file: FileOption = None,
    first: FirstPositionOption = 0,
    as_of: AsOfOption = None,
    workspace: OnlyWorkspaceOption = None,
    target: TargetOption = None,
) -> None:
    """Run only a projector, on the database of ANNALS_PROJECTOR_URL.

    Projectors that read from Kafka share the partitions of the topic. With --file, run an analyst's
    projection over history once instead (docs/how-to/write-a-projection.md).
    """
    if file is not None:
        project_file(file, first, as_of, workspace, target)
        return
    if first or as_of or workspace or target:
        raise CommandError("--from, --as-of, --workspace and --to need --file.")
    from server.processes.projector import run_projector

    end_with_supervisor()
    settings = Settings() if source is None else Settings(source=source.value)
    _require_url(settings.projector_url, "ANNALS_PROJECTOR_URL")
    run_projector(settings)


def send() -> None:
    """Run only a sender of text messages, on the database of ANNALS_SENDER_URL.

    Several senders share the work (docs/how-to/send-sms.md).
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
    """Run only a worker, which runs jobs, on the database of ANNALS_APP_URL.

    Several workers share the jobs; if one dies, the others take over its jobs.
    """
    from server.processes.worker import run_worker

    end_with_supervisor()
    settings = Settings()
    _require_url(settings.app_url, "ANNALS_APP_URL")
    run_worker(settings)


def _load_settings(port: int | None) -> Settings:
    # A keyword argument, and not model_copy, so that the port is validated.
    return Settings() if port is None else Settings(port=port)


def _require_url(url: str | None, name: str) -> None:
    """Raise `CommandError` if the process lacks the URL of its role."""
    if url is None:
        raise CommandError(f"{name} has to name the database; annals up needs no URL.")


def _load_or_issue_token(settings: Settings, issue: Callable[[], str]) -> Prepared:
    """Return the home's access token, issued at the first start and kept in a private file."""
    path = token_file(settings)
    if path.exists():
        return Prepared(path.read_text(encoding="utf-8").strip(), path, is_new=False)
    token = issue()
    write_private(path, f"{token}\n")
    return Prepared(token, path, is_new=True)


def _load_or_fill_demo(settings: Settings, ready: Settings, accounts: int, seed: int) -> Prepared:
    """Return the token of the demo workspace. The first start fills the workspace."""
    from server.cli.local.demo import fill

    path, record_file = token_file(settings), demo_file(settings)
    record = read_json(record_file)
    if record and path.exists():
        if (record.get("accounts"), record.get("seed")) != (accounts, seed):
            print_warning(
                f"This home has demo data of {record.get('accounts')} accounts, seed"
                f" {record.get('seed')}; it is kept (ANNALS_HOME names another home)."
            )
        return Prepared(path.read_text(encoding="utf-8").strip(), path, is_new=False)
    print_line(f"Making demo data: {accounts} accounts ...")
    with progress_bar("accounts") as show:

        def progress(done: int, total: int) -> None:
            show(done, total)
            if done == total:
                print_line("Filling the read tables ...")

        result = fill(ready, accounts=accounts, seed=seed, progress=progress)
    write_private(path, f"{result.token}\n")
    content = {"accounts": accounts, "seed": seed, "workspace_id": str(result.workspace_id)}
    write_private(record_file, json.dumps(content))
    return Prepared(result.token, path, is_new=True)
