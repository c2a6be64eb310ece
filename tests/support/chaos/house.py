"""All of Annals as processes, each of which can be killed, paused and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING
from uuid import uuid4

import psutil

from eventlog.migrations import migrate
from projections.engine.install import install
from readmodels import table_definitions
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY
from server.postgres.embedded import DatabaseUrls, EmbeddedPostgres, prepare_database
from tests.support.api_server import free_port, is_ready
from tests.support.chaos.curse import VARIABLE, Curse

if TYPE_CHECKING:
    from tests.support.kafka_broker import RunningKafka

DATABASE = "annals"
BATCH_EVENTS = "25"
"""Small, so that there are many moments between two batches."""
PARTITIONS = 4
SESSION_TIMEOUT_MS = 1_500
WAIT_MAX_S = 120.0
POLL_S = 0.02
STOP_WAIT_S = 30.0

COMMANDS = {
    "api": ("server.cli", "serve"),
    "projector-1": ("tests.support.chaos.projector",),
    "projector-2": ("tests.support.chaos.projector",),
    "relay": ("server.cli", "relay"),
    "retry": ("server.cli", "retry", "all"),
    "reconcile": ("server.cli", "reconcile"),
}
PROJECTORS = ("projector-1", "projector-2")


@dataclass
class Child:
    """A process, and whether it is paused."""

    process: subprocess.Popen[bytes]
    is_paused: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None


class House:
    """PostgreSQL, the API, two projectors, and with Kafka a broker and a relay."""

    def __init__(self, folder: Path, curse: Curse, kafka: RunningKafka | None = None) -> None:
        self._folder = folder
        self.curse = curse
        self.kafka = kafka
        self._server = EmbeddedPostgres(folder / "home")
        self._cluster = self._server.start()
        self._server_is_paused = False
        self.urls = prepare_database(self._cluster, DATABASE)
        migrate(self.urls.owner)
        install(self.urls.projector, table_definitions())
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._children: dict[str, Child] = {}
        self._environment = {**os.environ, **self._settings(self.urls)}

    def _settings(self, urls: DatabaseUrls) -> dict[str, str]:
        settings = {
            "ANNALS_OWNER_URL": urls.owner,
            "ANNALS_APP_URL": urls.app,
            "ANNALS_PROJECTOR_URL": urls.projector,
            "ANNALS_PORT": str(self._port),
            "ANNALS_PROJECTION_BATCH_SIZE": BATCH_EVENTS,
            SUPERVISOR_PID_VARIABLE: str(os.getpid()),
            "PYTHONPATH": str(REPOSITORY),
        }
        if self.kafka is not None:
            name = f"annals.{uuid4().hex[:8]}"
            settings |= {
                "ANNALS_SOURCE": "kafka",
                "ANNALS_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
                "ANNALS_KAFKA_TOPIC": name,
                "ANNALS_KAFKA_GROUP": name,
                "ANNALS_KAFKA_PARTITIONS": str(PARTITIONS),
                "ANNALS_KAFKA_SESSION_TIMEOUT_MS": str(SESSION_TIMEOUT_MS),
            }
        return settings

    @property
    def superuser_url(self) -> str:
        """Looks at everything."""
        return self._cluster.url("postgres", DATABASE)

    @property
    def names(self) -> tuple[str, ...]:
        """The processes that run for as long as the house stands."""
        return ("api", *PROJECTORS, *(("relay",) if self.kafka else ()))

    def start(self, name: str) -> None:
        """Start one of these names, where it does not run."""
        if name == "postgres":
            self._start_server()
        elif name == "broker":
            self._start_broker()
        else:
            self.launch(name, *COMMANDS[name])

    def launch(self, name: str, *arguments: str, **settings: str) -> None:
        """Run a module of Python under this name, unless the name runs already.

        `settings` are added to its environment.
        """
        if name in self._children and self._children[name].is_alive:
            return
        environment = {**self._environment, VARIABLE: str(self.curse), **settings}
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", *arguments],
                env=environment, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._children[name] = Child(process)

    def kill(self, name: str) -> None:
        """kill -9."""
        if name == "postgres":
            self._kill_server()
        elif name == "broker":
            self._kill_broker()
        elif name in self._children:
            _kill_tree(self._children[name].process)

    def pause(self, name: str) -> None:
        """SIGSTOP, for PostgreSQL of all its processes."""
        if name == "postgres":
            if self._server.is_running():
                self._server_is_paused = True
                _signal_tree(self._cluster.pid, signal.SIGSTOP)
        elif name == "broker":
            self._signal_broker(signal.SIGSTOP)
        elif name in self._children and self._children[name].is_alive:
            self._children[name].is_paused = True
            self._children[name].process.send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        if name == "postgres":
            if self._server_is_paused:
                self._server_is_paused = False
                _signal_tree(self._cluster.pid, signal.SIGCONT)
        elif name == "broker":
            self._signal_broker(signal.SIGCONT)
        elif name in self._children and self._children[name].is_paused:
            self._children[name].is_paused = False
            if self._children[name].is_alive:
                self._children[name].process.send_signal(signal.SIGCONT)

    def crash(self, random: Random) -> None:
        """kill -9 of one of PostgreSQL's processes: it stops all the others and begins anew."""
        if self._server_is_paused or not self._server.is_running():
            return
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._cluster.pid).children()
            if children:
                random.choice(sorted(children, key=lambda each: each.pid)).kill()

    def curse_projectors(self, curse: Curse) -> None:
        """Kill the projectors, and start them with this curse."""
        self.curse = curse
        for name in PROJECTORS:
            self.kill(name)
            self.start(name)

    def calm(self) -> None:
        """Everything runs, nothing is paused, no curse is on; returns when the API answers."""
        for name in ("postgres", "broker", *self._children):
            self.resume(name)
        self.kill("rebuild")
        self.start("postgres")
        self.start("broker")
        self.curse_projectors(Curse(self.curse.seed, self.curse.per_mille))
        for name in self.names:
            self.start(name)
        self.until(self.is_ready, "the API is ready")

    def ask_to_end(self, name: str) -> None:
        """SIGTERM."""
        if name in self._children and self._children[name].is_alive:
            self._children[name].process.terminate()

    def wait(self, name: str) -> int:
        """Wait for its end; the exit code. Raises `subprocess.TimeoutExpired`."""
        return self._children[name].process.wait(WAIT_MAX_S)

    def is_ready(self) -> bool:
        """Whether the API answers and reaches the database."""
        return is_ready(self.url)

    def stop(self) -> None:
        """End what is still there."""
        for name in self._children:
            self.kill(name)
        self.resume("postgres")
        self._server.stop()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until it is so. Raises `TimeoutError` past WAIT_MAX_S."""
        deadline = time.monotonic() + WAIT_MAX_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {WAIT_MAX_S:.0f} s: {what}")
            time.sleep(POLL_S)

    def said(self) -> Mapping[str, str]:
        """What the processes wrote, for whoever looks into a failure."""
        return {path.stem: path.read_text("utf-8") for path in self._folder.glob("*.log")}

    def _start_server(self) -> None:
        if self._server.is_running():
            return
        port = self._cluster.port
        self._cluster = self._server.start()
        assert self._cluster.port == port, "PostgreSQL's port was taken by another program"

    def _kill_server(self) -> None:
        if not self._server.is_running():
            return
        if self._server_is_paused:  # its processes could not notice that it is gone
            self._server_is_paused = False
            _signal_tree(self._cluster.pid, signal.SIGKILL)
        else:
            os.kill(self._cluster.pid, signal.SIGKILL)
        self.until(lambda: not self._server.is_running(), "PostgreSQL is dead")

    def _start_broker(self) -> None:
        if self.kafka is not None and not self.kafka.is_running:
            self.kafka.start()

    def _kill_broker(self) -> None:
        if self.kafka is not None and self.kafka.is_running:
            self.kafka.kill()

    def _signal_broker(self, number: signal.Signals) -> None:
        if self.kafka is not None and self.kafka.is_running:
            self.kafka.send_signal(number)


def _signal_tree(pid: int, number: signal.Signals) -> None:
    """To a process and its children, which nobody finds any more once it is dead."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for each in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _signal_tree(process.pid, signal.SIGKILL)
    process.wait(STOP_WAIT_S)
