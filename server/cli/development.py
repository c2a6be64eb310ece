"""test, check, lock: what developers run before they submit a change."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from runtime.settings import REPOSITORY
from server.cli import CommandError, print_line
from server.cli.options import PASS_ON_ARGUMENTS

TOOLS = Path(sys.executable).parent
CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
)
PYTEST = (sys.executable, "-P", "-m", "pytest")
TEST_PROCESSES = 2
"""Number of pytest processes; each starts its own database server and Kafka broker."""
STYLE = "tests/style"
STYLE_TESTS = (*PYTEST, STYLE)
"""Tests of the source text. They take seconds and run separately, as they test no behaviour."""
BEHAVIOUR_TESTS = (
    *(*PYTEST, f"--ignore={STYLE}", "--numprocesses", str(TEST_PROCESSES)),
    # A file stays in one process; those marked as long come first (tests/conftest.py).
    *("--dist", "loadfile", "--no-loadscope-reorder"),
    # A process that a hung test ends (pyproject.toml) is not replaced, for it would hang again.
    *("--max-worker-restart", "0"),
)
# The files name no package index, so that they work with every mirror.
COMPILE = (
    *("pip", "compile", "pyproject.toml", "--quiet", "--generate-hashes", "--universal"),
    *("--python-version", "3.11", "--no-header", "--no-annotate", "--no-emit-index-url"),
)
LOCKS: tuple[tuple[str, ...], ...] = (
    ("--output-file", "requirements.txt"),
    # The development lock keeps the runtime's versions, so that one environment serves both.
    (
        "--group",
        "dev",
        "--constraints",
        "requirements.txt",
        "--output-file",
        "requirements-dev.txt",
    ),
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(context_settings=PASS_ON_ARGUMENTS)(test)
    app.command()(check)
    app.command()(lock)


def test(context: typer.Context) -> None:
    """Run the tests of behaviour, two files at a time; any arguments go to pytest instead."""
    raise typer.Exit(_run(*PYTEST, *context.args) if context.args else _run(*BEHAVIOUR_TESTS))


def check() -> None:
    """Check style, types and import contracts, then run all tests; fail if one of them fails."""
    failed = []
    for tool, *arguments in CHECKS:
        print_line(f"$ {' '.join([tool, *arguments])}")
        if _run(str(TOOLS / tool), *arguments) != 0:
            failed.append(tool)
    for name, tests in (("style tests", STYLE_TESTS), ("tests of behaviour", BEHAVIOUR_TESTS)):
        print_line(f"$ pytest ({name})")
        if _run(*tests) != 0:
            failed.append(name)
    if failed:
        raise CommandError(f"These checks failed: {', '.join(failed)}.")


def lock(
    upgrade: Annotated[bool, typer.Option(help="Take the newest compatible versions.")] = False,
) -> None:
    """Write requirements.txt and requirements-dev.txt from pyproject.toml."""
    for arguments in LOCKS:
        extra = ("--upgrade",) if upgrade else ()
        if _run(str(TOOLS / "uv"), *COMPILE, *arguments, *extra) != 0:
            raise CommandError("The required versions are not compatible: see above.")
    for name in ("requirements.txt", "requirements-dev.txt"):
        if "://" in (REPOSITORY / name).read_text(encoding="utf-8"):
            raise CommandError(f"{name} contains a URL: depend on released packages only.")
    print_line("Locked. The next call of annals installs it.")


def _run(*command: str) -> int:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "UV_PYTHON_DOWNLOADS": "never"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode
