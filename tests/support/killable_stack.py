"""PostgreSQL, API and projector as processes, each of which can be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from uuid import UUID

from eventlog.migrations import migrate
from projections.engine.install import install
from readmodels import table_definitions
from server.postgres.embedded import EmbeddedPostgres, prepare_database
from tests.support.api_server import free_port, is_ready
from tests.support.keys import issue_first_key
from tests.support.processes import start_module
from tests.support.waiting import wait_until

DATABASE = "annals"
COMMANDS = {"api": "serve", "projector": "project"}


class KillableStack:
    """Annals as three processes: PostgreSQL (with its durability settings), API and projector."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._postgres = EmbeddedPostgres(folder / "home")
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._cluster = self._postgres.start()
        urls = prepare_database(self._cluster, DATABASE)
        migrate(urls.owner)
        install(urls.projector, table_definitions())
        self.owner_url = urls.owner
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._environment = {
            "ANNALS_OWNER_URL": urls.owner,
            "ANNALS_APP_URL": urls.app,
            "ANNALS_PROJECTOR_URL": urls.projector,
            "ANNALS_PORT": str(self._port),
            "ANNALS_PROJECTION_BATCH_SIZE": "20",
        }

    @property
    def superuser_url(self) -> str:
        """The superuser's connection URL."""
        return self._cluster.url("postgres", DATABASE)

    def start(self, name: str) -> None:
        """Start `api` or `projector`."""
        self._children[name] = start_module(
            self._folder / f"{name}.log", "server.cli", COMMANDS[name], **self._environment
        )

    def kill(self, name: str) -> None:
        """Kill `api`, `projector` or `postgres` with SIGKILL."""
        if name == "postgres":
            os.kill(self._cluster.pid, signal.SIGKILL)
        else:
            self._children[name].kill()
            self._children[name].wait()

    def restart(self, name: str) -> None:
        """Start a killed process again, PostgreSQL on the same port."""
        if name == "postgres":
            wait_until(lambda: not self._postgres.is_running(), "PostgreSQL has ended")
            port = self._cluster.port
            self._cluster = self._postgres.start()
            assert self._cluster.port == port
        else:
            self.start(name)

    def is_ready(self) -> bool:
        """Whether the API answers and reaches the database."""
        return is_ready(self.url)

    def stop(self) -> None:
        """End all processes."""
        for child in self._children.values():
            child.kill()
            child.wait()
        self._postgres.stop()

    def logs(self) -> str:
        """The output of all processes."""
        return "\n".join(path.read_text() for path in self._folder.glob("*.log"))


def issue_token(owner_url: str, workspace_id: UUID) -> str:
    """Issue an admin's API key in the workspace; return its token."""
    return issue_first_key(owner_url, workspace_id, {"name": "load", "role": "admin"}).token
