"""Documents, done as they say: every command is run, and prints what is shown."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.settings import REPOSITORY
from tests.support.servers import reachable_folder

DOCUMENTS = {"docs/quickstart.md": "./annals up", "README.md": "./annals demo"}
"""Documents, and the command in each that serves in the first terminal."""
SMALLER = {"./annals demo": "./annals demo --accounts 50"}
"""What is shown does not depend on how many accounts there are."""
PORT_OF_THE_DOCUMENTS = "8321"
START_WAIT_MAX_S = 60.0
COMMANDS_WAIT_MAX_S = 120.0
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "=====block====="

# The launcher itself is tested elsewhere; this one takes the interpreter of the tests.
LAUNCHER = f"""#!/bin/sh
exec "{sys.executable}" -P -m server.cli "$@"
"""


@dataclass
class Step:
    """Commands of the document, and what they print where the document shows it."""

    commands: str
    shown: str | None = None


def steps(document: str) -> list[Step]:
    found: list[Step] = []
    for language, text in BLOCK.findall((REPOSITORY / document).read_text("utf-8")):
        if language == "sh":
            found.append(Step(text))
        else:
            found[-1].shown = text
    return found


@dataclass(frozen=True)
class Clone:
    """Where the reader of the document stands, and a port that is free."""

    folder: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        base = {name: value for name, value in os.environ.items() if not name.startswith("ANNALS_")}
        return base | {
            "PYTHONPATH": str(REPOSITORY),
            "ANNALS_HOME": str(self.folder / ".annals"),
            "ANNALS_PORT": str(self.port),
            "LC_ALL": "C.UTF-8",
        }

    def serve(self, command: str) -> subprocess.Popen[bytes]:
        """The first terminal, once the server answers."""
        process = subprocess.Popen(
            command.split(), cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_WAIT_MAX_S
        while not (self.folder / ".annals" / "connection.json").exists():
            assert process.poll() is None, f"{command} ended"
            assert time.monotonic() < deadline, f"{command} did not start"
            time.sleep(0.05)
        return process

    def run(self, commands: list[str]) -> list[str]:
        """The second terminal: one shell for all of it; returns what each printed."""
        script = f"\necho {MARK}\n".join(commands).replace(PORT_OF_THE_DOCUMENTS, str(self.port))
        done = subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMANDS_WAIT_MAX_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.split(f"{MARK}\n")


@pytest.fixture
def clone() -> Iterator[Clone]:
    with reachable_folder() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        launcher = folder / "annals"
        launcher.write_text(LAUNCHER, "utf-8")
        launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
        yield Clone(folder, port)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_does_what_the_document_shows(clone: Clone, document: str) -> None:
    first, *others = steps(document)
    serve = DOCUMENTS[document]
    assert first.commands.strip() == serve
    server = clone.serve(SMALLER.get(serve, serve))
    try:
        printed = clone.run([step.commands for step in others])
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(START_WAIT_MAX_S) == 0
    assert len(printed) == len(others)
    for step, output in zip(others, printed, strict=True):
        if step.shown is not None:
            assert lines(output) == lines(step.shown)


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]
