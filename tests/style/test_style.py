"""What the code looks like, as far as a test can see it."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.settings import REPOSITORY

PACKAGES = [
    *("api", "commands", "domain", "eventlog", "projections"),
    *("readmodels", "replay", "runtime", "server"),
]
LINE_MAX_CHARS = 100
FUNCTION_MAX_LINES = 60
MODULE_MAX_LINES = 500
LEFT_UNDONE = re.compile(r"(?:#|--|\"\"\").*\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b")


def files(pattern: str) -> list[Path]:
    """The files of the repository that match, built and downloaded ones excepted."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [REPOSITORY / name for name in sorted(set(listed)) if (REPOSITORY / name).exists()]


SOURCES = files("*.py")
MODULES = [path for path in SOURCES if path.relative_to(REPOSITORY).parts[0] in PACKAGES]


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_there_is_something_to_look_at() -> None:
    assert {path.relative_to(REPOSITORY).parts[0] for path in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_lines_fit_a_screen(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    long = [number for number, line in enumerate(lines, 1) if len(line) > LINE_MAX_CHARS]
    assert not long, f"lines {long} have more than {LINE_MAX_CHARS} characters"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_functions_fit_a_screen(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    long = [
        f"{each.name} ({length} lines)"
        for each in functions(tree)
        if (length := (each.end_lineno or each.lineno) - each.lineno + 1) > FUNCTION_MAX_LINES
    ]
    assert not long, f"longer than {FUNCTION_MAX_LINES} lines: {', '.join(long)}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MODULE_MAX_LINES


@pytest.mark.parametrize("path", [*MODULES, *files("tests/*.py")], ids=name)
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize("path", [*SOURCES, *files("*.sql")], ids=name)
def test_nothing_is_left_undone(path: Path) -> None:
    assert not LEFT_UNDONE.findall(path.read_text("utf-8"))
