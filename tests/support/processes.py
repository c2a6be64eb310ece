"""Annals' own processes on a test's database: real ones, to be stopped, killed and read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from api.app import create_app
from eventlog.connections import Connection
from projections.engine.live.runner import ProjectionEngine
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY, Settings
from tests.support.api_server import free_port, serving
from tests.support.databases import Urls
from tests.support.waiting import TIMEOUT_S, wait_until

STOP_TIMEOUT_S = 60.0


def start_module(output: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start `python -m …` as a child that ends with this process; append its output to a file."""
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", *arguments],
            env={
                **os.environ,
                SUPERVISOR_PID_VARIABLE: str(os.getpid()),
                "PYTHONPATH": str(REPOSITORY),
                **environment,
            },
            stdout=file,
            stderr=file,
        )


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Terminate a process that may be paused; kill it after STOP_TIMEOUT_S."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Projector:
    """A process that runs `annals project`."""

    def __init__(self, urls: Urls, output: Path, **settings: str) -> None:
        self._output = output
        self.process = start_module(
            output, "server.cli", "project", ANNALS_PROJECTOR_URL=urls.projector, **settings
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """Return the log so far; every line is JSON."""
        return [json.loads(line) for line in self._output.read_text("utf-8").splitlines()]

    def has_started(self) -> bool:
        """Whether the process has logged that it projects or waits to do so."""
        return any(line["message"].startswith("projecting") for line in self.lines())

    def stop(self) -> None:
        """Terminate the process."""
        stop_process(self.process)


@contextmanager
def running_projector(urls: Urls, output: Path, **settings: str) -> Iterator[Projector]:
    """Run a projector process that holds all projections while the block lasts."""
    projector = Projector(urls, output, **settings)
    try:
        with psycopg.connect(urls.superuser, autocommit=True) as database:
            wait_until(
                lambda: projection_holders(database) == {projector.process.pid},
                "the projector holds all projections",
            )
        yield projector
    finally:
        projector.stop()


def projection_holders(database: Connection) -> set[int]:
    """Return the ids of the processes that last took the projections; 0 for none."""
    rows = database.execute("SELECT holder FROM projections WHERE name NOT LIKE '%:%'").fetchall()
    return {int(holder.rpartition(":")[2]) if holder else 0 for (holder,) in rows}


@contextmanager
def running_worker(urls: Urls, output: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker process while the block lasts: `annals work`, or a module with arguments."""
    command = arguments or ("server.cli", "work")
    process = start_module(output, *command, ANNALS_APP_URL=urls.app)
    try:
        yield process
    finally:
        stop_process(process)


@contextmanager
def api_without_projector(urls: Urls, **settings: Any) -> Iterator[httpx.Client]:
    """Run the API without a projector while the block lasts. Yields a client without a key."""
    given = Settings(
        owner_url=urls.owner,
        app_url=urls.app,
        projector_url=urls.projector,
        port=free_port(),
        **settings,
    )
    with (
        serving(create_app(given), given.port) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT_S, verify=False) as client,
    ):
        yield client


@contextmanager
def running_engine(engine: ProjectionEngine) -> Iterator[ProjectionEngine]:
    """Run the engine in a thread while the block lasts."""
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield engine
    finally:
        engine.stop()
        thread.join()


def command_line_of(process: psutil.Process) -> list[str]:
    """Return the command line of a process; empty if it has ended since it was listed."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
