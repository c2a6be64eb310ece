"""Annals' own processes on a test's database: real ones, to be stopped, killed and read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg

from api.app import create_app
from projections.engine.live.runner import ProjectionEngine
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY, Settings
from tests.conftest import Urls
from tests.support.api_server import free_port, serving

WAIT_S = 120.0
END_WAIT_S = 60.0


def until(is_so: Callable[[], bool], wait_s: float = WAIT_S) -> float:
    """Wait until it is so; returns the seconds that it took."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < wait_s, "it does not come to be so"
        time.sleep(0.02)
    return time.monotonic() - started


class Projector:
    """`annals project` as a process, and what it writes."""

    def __init__(self, urls: Urls, output: Path, **settings: str) -> None:
        environment = {
            **os.environ,
            "ANNALS_PROJECTOR_URL": urls.projector,
            SUPERVISOR_PID_VARIABLE: str(os.getpid()),
            "PYTHONPATH": str(REPOSITORY),
            **settings,
        }
        self._output = output
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "server.cli", "project"],
                env=environment,
                stdout=file,
                stderr=file,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """What it logged so far: every line is JSON."""
        return [json.loads(line) for line in self._output.read_text("utf-8").splitlines()]

    def end(self) -> None:
        """Let it go on if it is stopped, and end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(END_WAIT_S)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def projecting(urls: Urls, output: Path, **settings: str) -> Iterator[Projector]:
    """A projector at work, as long as the block lasts."""
    projector = Projector(urls, output, **settings)
    try:
        with psycopg.connect(urls.superuser, autocommit=True) as database:
            until(lambda: holders(database) == {projector.process.pid})
        yield projector
    finally:
        projector.end()


def holders(database: psycopg.Connection[Any]) -> set[int]:
    """The numbers of the processes that the projections were given to last; 0 for nobody."""
    rows = database.execute("SELECT holder FROM projections WHERE name NOT LIKE '%:%'").fetchall()
    return {int(holder.rpartition(":")[2]) if holder else 0 for (holder,) in rows}


@contextmanager
def answering(urls: Urls, **settings: Any) -> Iterator[httpx.Client]:
    """The API without a projector, as long as the block lasts; a client without a key."""
    given = Settings(
        owner_url=urls.owner,
        app_url=urls.app,
        projector_url=urls.projector,
        port=free_port(),
        **settings,
    )
    with (
        serving(create_app(given), given.port) as url,
        httpx.Client(base_url=url, timeout=WAIT_S, verify=False) as client,
    ):
        yield client


@contextmanager
def running(engine: ProjectionEngine) -> Iterator[ProjectionEngine]:
    """The engine follows in a thread, as long as the block lasts."""
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield engine
    finally:
        engine.stop()
        thread.join()
