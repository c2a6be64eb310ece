"""Documents as programs: their commands, and a folder in which to run them."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.settings import REPOSITORY
from tests.support.api_server import free_port
from tests.support.postgres_server import reachable_folder
from tests.support.waiting import wait_until

DOCUMENTED_PORT = "8321"
START_TIMEOUT_S = 60.0
COMMANDS_TIMEOUT_S = 120.0
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "=====block====="

# The real launcher is tested elsewhere; this one uses the interpreter of the tests.
LAUNCHER = f"""#!/bin/sh
exec "{sys.executable}" -P -m server.cli "$@"
"""


@dataclass
class DocumentStep:
    """Commands of a document, and their output if the document shows it."""

    commands: str
    shown: str | None = None


def document_steps(document: str) -> list[DocumentStep]:
    """Return the shell blocks of a document, each with the text block after it."""
    found: list[DocumentStep] = []
    for language, text in BLOCK.findall((REPOSITORY / document).read_text("utf-8")):
        if language == "sh":
            found.append(DocumentStep(text))
        else:
            found[-1].shown = text
    return found


def output_lines(text: str) -> list[str]:
    """Return the lines of an output without blanks at their ends."""
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@dataclass(frozen=True)
class Clone:
    """A folder with the launcher, as in a reader's clone of the repository, and a free port."""

    folder: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the reader's shell."""
        base = {name: value for name, value in os.environ.items() if not name.startswith("ANNALS_")}
        return base | {
            "PYTHONPATH": str(REPOSITORY),
            "ANNALS_HOME": str(self.folder / ".annals"),
            "ANNALS_PORT": str(self.port),
            "LC_ALL": "C.UTF-8",
        }

    @contextmanager
    def serve(self, command: str) -> Iterator[None]:
        """Run a command that serves, as in the first terminal, while the block lasts."""
        process = subprocess.Popen(
            command.split(), cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL
        )

        def answers() -> bool:
            assert process.poll() is None, f"{command} ended"
            return (self.folder / ".annals" / "connection.json").exists()

        try:
            wait_until(answers, f"{command} has started", timeout_s=START_TIMEOUT_S)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(START_TIMEOUT_S) == 0

    def run(self, commands: list[str]) -> list[str]:
        """Run commands in one shell, as in the second terminal; return the output of each."""
        script = f"\necho {MARK}\n".join(commands).replace(DOCUMENTED_PORT, str(self.port))
        done = subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMANDS_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.split(f"{MARK}\n")


@contextmanager
def clone() -> Iterator[Clone]:
    """Provide a clone while the block lasts."""
    with reachable_folder(in_memory=True) as folder:
        launcher = folder / "annals"
        launcher.write_text(LAUNCHER, "utf-8")
        launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
        yield Clone(folder, free_port())
