"""The repository's files as style tests see them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from runtime.settings import REPOSITORY

PACKAGES = (
    *("api", "commands", "domain", "eventlog", "projections"),
    *("readmodels", "replay", "runtime", "server"),
)


def tracked_files(*patterns: str) -> list[Path]:
    """Return the files that match, new ones too, without those that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [REPOSITORY / name for name in sorted(set(listed)) if (REPOSITORY / name).exists()]


def relative(path: Path) -> str:
    """Return the path from the root of the repository."""
    return path.relative_to(REPOSITORY).as_posix()


def is_of_program(path: Path) -> bool:
    """Whether the file belongs to the program, and not to its tests or benchmarks."""
    return path.relative_to(REPOSITORY).parts[0] in PACKAGES


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield all functions and methods, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def refuse(offenders: Iterable[str]) -> None:
    """Fail if there are offenders; list all of them."""
    found = list(offenders)
    assert not found, f"{len(found)} offenders:\n" + "\n".join(found)
