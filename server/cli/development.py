"""test, check, lock: what a change goes through before it is handed in."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from runtime.settings import REPOSITORY
from server.cli import CommandError, say

TOOLS = Path(sys.executable).parent
CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
)
PYTEST = (sys.executable, "-P", "-m", "pytest")
TEST_PROCESSES = 2
"""All tests are run by so many at a time, each with a database server and a broker of its own."""
ALL_TESTS = (*PYTEST, "--numprocesses", str(TEST_PROCESSES), "--dist", "loadfile")
# No index address in the files: they serve every mirror. One Python is named, the oldest.
COMPILE = (
    *("pip", "compile", "pyproject.toml", "--quiet", "--generate-hashes", "--universal"),
    *("--python-version", "3.11", "--no-header", "--no-annotate", "--no-emit-index-url"),
)
LOCKS: tuple[tuple[str, ...], ...] = (
    ("--output-file", "requirements.txt"),
    # The runtime's pins bind the tools' lock, so that one environment serves both.
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
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(context_settings=passed_on)(test)
    app.command()(check)
    app.command()(lock)


def test(context: typer.Context) -> None:
    """Run all tests, two files at a time; what follows, if anything, goes to pytest instead."""
    raise typer.Exit(_run(*PYTEST, *context.args) if context.args else _run(*ALL_TESTS))


def check() -> None:
    """Run style, types, import contracts and all tests; fails if one of them does."""
    failed = []
    for tool, *arguments in CHECKS:
        say(f"$ {' '.join([tool, *arguments])}")
        if _run(str(TOOLS / tool), *arguments) != 0:
            failed.append(tool)
    say("$ pytest")
    if _run(*ALL_TESTS) != 0:
        failed.append("pytest")
    if failed:
        raise CommandError(f"These checks failed: {', '.join(failed)}.")


def lock(
    upgrade: Annotated[bool, typer.Option(help="Take the newest versions that fit.")] = False,
) -> None:
    """Write requirements.txt and requirements-dev.txt anew from pyproject.toml."""
    for arguments in LOCKS:
        extra = ("--upgrade",) if upgrade else ()
        if _run(str(TOOLS / "uv"), *COMPILE, *arguments, *extra) != 0:
            raise CommandError("The versions asked for do not go together: see above.")
    for name in ("requirements.txt", "requirements-dev.txt"):
        if "://" in (REPOSITORY / name).read_text(encoding="utf-8"):
            raise CommandError(f"{name} names an address: depend on released packages only.")
    say("Locked. The next call of annals installs it.")


def _run(*command: str) -> int:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "UV_PYTHON_DOWNLOADS": "never"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode
