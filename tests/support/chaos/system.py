"""All of Annals as processes that can be killed, paused and started again, and an SMS gateway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
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
from tests.support.chaos.projection_faults import FAULTS_VARIABLE, ProjectionFaults
from tests.support.twilio_server import FakeTwilio
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.kafka_broker import RunningKafka

DATABASE = "annals"
BATCH_EVENTS = "25"
"""Small, so that faults often hit the moment between two batches."""
PARTITIONS = 4
SESSION_TIMEOUT_MS = 1_500
WAIT_MAX_S = 120.0

STOP_WAIT_S = 30.0

COMMANDS = {
    "api": ("server.cli", "serve"),
    "projector-1": ("tests.support.chaos.projector",),
    "projector-2": ("tests.support.chaos.projector",),
    "worker": ("server.cli", "work"),
    "sender": ("server.cli", "send"),
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
        """Whether the process has not ended."""
        return self.process.poll() is None


class ChaosSystem:
    """PostgreSQL, the API, two projectors, and with Kafka a broker and a relay."""

    def __init__(
        self,
        folder: Path,
        faults: ProjectionFaults,
        gateway: FakeTwilio,
        kafka: RunningKafka | None = None,
    ) -> None:
        self._folder = folder
        self.gateway = gateway
        self.faults = faults
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
            "ANNALS_SENDER_URL": urls.sender,
            "ANNALS_PORT": str(self._port),
            **self.gateway.environment(),
            "ANNALS_SMS_TIMEOUT_S": "1",
            "ANNALS_SMS_BACKOFF_FIRST_S": "0.1",
            "ANNALS_SMS_BACKOFF_MAX_S": "0.5",
            "ANNALS_SMS_LEAD_DAILY_MAX": "10000",
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
        """The superuser's connection URL."""
        return self._cluster.url("postgres", DATABASE)

    @property
    def names(self) -> tuple[str, ...]:
        """The processes that run during the whole trial."""
        return ("api", *PROJECTORS, "worker", "sender", *(("relay",) if self.kafka else ()))

    def start(self, name: str) -> None:
        """Start the process of this name unless it runs."""
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
        environment = {**self._environment, FAULTS_VARIABLE: str(self.faults), **settings}
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", *arguments],
                env=environment, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._children[name] = Child(process)

    def kill(self, name: str) -> None:
        """Kill the process with SIGKILL."""
        if name == "postgres":
            self._kill_server()
        elif name == "broker":
            self._kill_broker()
        elif name in self._children:
            _kill_tree(self._children[name].process)

    def pause(self, name: str) -> None:
        """Send SIGSTOP; to PostgreSQL's child processes as well."""
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
        """Send SIGCONT to a process that was paused."""
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
        """kill -9 one of PostgreSQL's child processes, so that it restarts all of them."""
        if self._server_is_paused or not self._server.is_running():
            return
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._cluster.pid).children()
            if children:
                random.choice(sorted(children, key=lambda each: each.pid)).kill()

    def restart_projectors_with(self, faults: ProjectionFaults) -> None:
        """Kill the projectors and start them with these faults."""
        self.faults = faults
        for name in PROJECTORS:
            self.kill(name)
            self.start(name)

    def recover(self) -> None:
        """Resume and start everything without faults. Return once the API answers."""
        for name in ("postgres", "broker", *self._children):
            self.resume(name)
        self.kill("rebuild")
        self.gateway.down = None
        self.start("postgres")
        self.start("broker")
        self.restart_projectors_with(ProjectionFaults(self.faults.seed, self.faults.per_mille))
        for name in self.names:
            self.start(name)
        wait_until(self.is_ready, "the API is ready")

    def ask_to_end(self, name: str) -> None:
        """Send SIGTERM."""
        if name in self._children and self._children[name].is_alive:
            self._children[name].process.terminate()

    def wait(self, name: str) -> int:
        """Wait for the process to end; return its exit code. Raises `TimeoutExpired`."""
        return self._children[name].process.wait(WAIT_MAX_S)

    def is_ready(self) -> bool:
        """Whether the API answers and reaches the database."""
        return is_ready(self.url)

    def stop(self) -> None:
        """Kill all processes and stop PostgreSQL."""
        for name in self._children:
            self.kill(name)
        self.resume("postgres")
        self._server.stop()

    def logs(self) -> Mapping[str, str]:
        """The output of each process by name."""
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
        if self._server_is_paused:  # paused children would not notice that their parent is gone
            self._server_is_paused = False
            _signal_tree(self._cluster.pid, signal.SIGKILL)
        else:
            os.kill(self._cluster.pid, signal.SIGKILL)
        wait_until(lambda: not self._server.is_running(), "PostgreSQL has ended")

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
    """Signal a process and its children, which cannot be found once it is dead."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for each in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _signal_tree(process.pid, signal.SIGKILL)
    process.wait(STOP_WAIT_S)
