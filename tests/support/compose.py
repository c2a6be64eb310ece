"""compose.yaml without Docker: its services as processes, with their commands, environment and
secrets, on a PostgreSQL server and a Kafka broker that are configured as it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from runtime.settings import REPOSITORY
from server.postgres.embedded import Cluster
from tests.support.api_server import free_port
from tests.support.documents import document_steps
from tests.support.kafka_broker import RunningKafka, session_kafka
from tests.support.postgres_server import FAST_SETTINGS, fast_cluster, reachable_folder
from tests.support.waiting import wait_until

COMPOSE_FILE = REPOSITORY / "compose.yaml"
UP = "docker compose up --build --detach --wait"
"""The command of the guide that starts the services; `ComposeStack.up` stands in for it."""
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")
COPY = re.compile(r"^COPY (\S+) /app/", re.MULTILINE)
ENTRYPOINT = re.compile(r"^ENTRYPOINT (\[.*\])$", re.MULTILINE)
SECRETS_FOLDER = "/run/secrets"
POSTGRES, KAFKA = "postgres", "kafka"
DATABASE_ADDRESS = "postgres:5432"
STOP_TIMEOUT_S = 60.0

# Stands in for `docker`: runs a command in the environment of a service.
DOCKER = """#!/bin/sh
[ "$1 $2 $3 $4" = "compose run --rm -T" ] || { echo "unknown command: docker $*" >&2; exit 64; }
shift 4
service=$1
shift
exec "{folder}/$service" "$@"
"""


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file, with its merge keys resolved."""
    content = YAML(typ="safe").load(path)
    assert isinstance(content, dict)
    return content


def load_compose(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return compose.yaml with `${…}` replaced, as with these variables in `.env`."""

    def value(found: re.Match[str]) -> str:
        return (variables or {}).get(found["name"]) or found["default"] or ""

    def replaced(content: Any) -> Any:
        if isinstance(content, str):
            return VARIABLE.sub(value, content)
        if isinstance(content, dict):
            return {name: replaced(each) for name, each in content.items()}
        return [replaced(each) for each in content] if isinstance(content, list) else content

    return {name: replaced(each) for name, each in load_yaml(COMPOSE_FILE).items()}


def dockerfile() -> str:
    """Return the text of the Dockerfile."""
    return (REPOSITORY / "Dockerfile").read_text("utf-8")


def entrypoint() -> list[str]:
    """Return the entry point of the image, with the interpreter of the tests."""
    found = ENTRYPOINT.search(dockerfile())
    assert found
    first, *others = json.loads(found[1])
    assert first == "python"
    return [sys.executable, *others]


@dataclass
class ComposeStack:
    """The services of compose.yaml in a folder, in which the guide's commands are run."""

    folder: Path
    port: int = field(default_factory=free_port)
    """Where the API is published."""
    file: dict[str, Any] = field(default_factory=load_compose)
    processes: dict[str, list[subprocess.Popen[bytes]]] = field(default_factory=dict)
    """By service."""
    printed: list[str] = field(default_factory=list)
    """What the commands of the guide have printed, apart from `UP`."""
    _resources: ExitStack = field(default_factory=ExitStack)
    _addresses: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Stands in for the volume `home`."""
        return self.folder / "home"

    @property
    def _image(self) -> Path:
        """Stands in for /app in the image, and has what the Dockerfile copies to it."""
        return self.folder / "app"

    @property
    def services(self) -> dict[str, Any]:
        """The services by name."""
        services: dict[str, Any] = self.file["services"]
        return services

    def follow(self, guide: str) -> None:
        """Run the commands of a guide, one after the other."""
        for step in document_steps(guide):
            if step.commands.strip() == UP:
                self.up()
            else:
                self.printed.append(self.shell(step.commands))

    def up(self) -> None:
        """Start all services, each after those it depends on, until the API is healthy."""
        cluster = self._start_postgres()
        kafka = self._start_kafka()
        self._addresses = {
            DATABASE_ADDRESS: f"{cluster.host}:{cluster.port}",
            "kafka:9092": kafka.bootstrap,
            "0.0.0.0": "127.0.0.1",  # the address at which the port is published
            "8321": str(self.port),
        }
        self._image.mkdir()
        for name in COPY.findall(dockerfile()):
            (self._image / name).symlink_to(REPOSITORY / name)
        own = [name for name in self.services if name not in (POSTGRES, KAFKA)]
        for name in own:
            self._write_program(name)
        self._write_docker()
        self.run("migrate", *self.services["migrate"]["command"])
        for name in own:
            service = self.services[name]
            if name != "migrate" and "profiles" not in service:
                for _ in range(service.get("deploy", {}).get("replicas", 1)):
                    self._start(name, service["command"])
        self._wait_until_healthy("api")

    def run(self, service: str, *arguments: str) -> str:
        """Run a command in the environment of a service; return its standard output."""
        done = subprocess.run(
            [str(self._program(service)), *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shell(self, commands: str) -> str:
        """Run commands of the guide; return their standard output."""
        environment = {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "-eu", "-c", commands.replace("8321", str(self.port))],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def down(self) -> None:
        """Stop the services as `docker compose down` does, and then both servers."""
        running = [each for service in self.processes.values() for each in service]
        try:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(STOP_TIMEOUT_S)
        finally:
            for process in running:
                process.kill()
                process.wait()
            self._resources.close()

    def logs(self) -> str:
        """Return what the services have written."""
        return "\n".join(
            f"{path.name}: {path.read_text('utf-8')}" for path in self.folder.glob("*.log")
        )

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment of a service's container, with the addresses of this machine."""
        given = self.services[service].get("environment", {})
        found = {name: self._translated(value) for name, value in given.items()}
        return found | {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self._image),
            "ANNALS_HOME": str(self.home),
        }

    def secret(self, name: str) -> str:
        """Return a secret as a service sees it."""
        path: str = self.file["secrets"][name]["file"]
        text = (self.folder / path).read_text("utf-8")
        return text.replace(DATABASE_ADDRESS, self._addresses[DATABASE_ADDRESS])

    def _translated(self, text: str) -> str:
        for theirs, ours in self._addresses.items():
            text = text.replace(theirs, ours)
        return text

    def _start_postgres(self) -> Cluster:
        service = self.services[POSTGRES]
        program, *options = service["command"]
        assert program == "postgres"
        settings = dict(each.removeprefix("-c").split("=", 1) for each in options)
        initdb = ["--username=postgres", *service["environment"]["POSTGRES_INITDB_ARGS"].split()]
        return self._resources.enter_context(
            fast_cluster(
                settings | FAST_SETTINGS,
                initdb,
                (self.folder / "secrets" / "postgres_password").read_text("utf-8"),
            )
        )

    def _start_kafka(self) -> RunningKafka:
        """Start a broker with the properties that the image makes of its variables."""
        lines = [
            f"{name.removeprefix('KAFKA_').replace('_', '.').lower()}={value}"
            for name, value in self.services[KAFKA]["environment"].items()
            if name != "KAFKA_HEAP_OPTS"
        ]
        properties = (
            "\n".join(lines)
            .replace("://:9092", "://127.0.0.1:{port}")
            .replace("kafka:9092", "127.0.0.1:{port}")
            .replace("9093", "{controller}")
            .replace("/var/lib/kafka/data", "{folder}/data")
        )
        return self._resources.enter_context(contextmanager(session_kafka)(properties))

    def _program(self, service: str) -> Path:
        return self.folder / "bin" / service

    def _write_program(self, service: str) -> None:
        """Write a program that runs a command in the environment of a service."""
        mount = self.folder / "run" / service
        mount.mkdir(parents=True)
        for name in self.services[service].get("secrets", ()):
            (mount / name).write_text(self.secret(name), "utf-8")
        environment = self.environment(service)
        assert environment["ANNALS_SECRETS_DIR"] == SECRETS_FOLDER
        environment["ANNALS_SECRETS_DIR"] = str(mount)
        variables = [f"{name}={value}" for name, value in environment.items()]
        command = shlex.join(["env", "-i", *variables, *entrypoint()])
        self._write_executable(self._program(service), f'#!/bin/sh\nexec {command} "$@"\n')

    def _write_docker(self) -> None:
        self._write_executable(
            self.folder / "bin" / "docker", DOCKER.replace("{folder}", str(self.folder / "bin"))
        )

    def _write_executable(self, path: Path, text: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
        path.chmod(0o755)

    def _start(self, service: str, command: list[str]) -> None:
        with (self.folder / f"{service}.log").open("ab") as output:
            process = subprocess.Popen(
                [str(self._program(service)), *command], stdout=output, stderr=output
            )
        self.processes.setdefault(service, []).append(process)

    def _wait_until_healthy(self, service: str) -> None:
        kind, program, *arguments = self.services[service]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        check = [sys.executable, *map(self._translated, arguments)]

        def is_healthy() -> bool:
            for each in self.processes.values():
                assert all(process.poll() is None for process in each), self.logs()
            return subprocess.run(check, capture_output=True, check=False).returncode == 0

        wait_until(is_healthy, f"{service} is healthy", poll_interval_s=0.2)


@contextmanager
def compose_stack() -> Iterator[ComposeStack]:
    """Provide the folder of the guide, in which nothing runs yet; stop everything at the end."""
    with reachable_folder() as folder:
        shutil.copytree(REPOSITORY / "deploy", folder / "deploy")
        stack = ComposeStack(folder)
        try:
            yield stack
        finally:
            stack.down()
