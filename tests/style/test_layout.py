"""Where source files are: one test a rule, which lists all offenders."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import PurePosixPath

from runtime.settings import REPOSITORY
from tests.support.source_files import is_of_program, refuse, relative, tracked_files

MODULES_MAX = 12
ONE_FILE_A_KIND = {
    *("domain", "projections", "api/routes", "readmodels/kinds", "runtime/codes", "benchmarks"),
}
"""Packages whose modules are all of one shape, so that their number does no harm."""
NOT_MIRRORED = {"style", "support", "samples", "schemas"}
"""Folders of tests that no folder of the repository corresponds to."""

PYTHON_FILES = tracked_files("*.py")
TESTS = [PurePosixPath(relative(path)) for path in PYTHON_FILES if not is_of_program(path)]
TESTS = [path for path in TESTS if path.parts[0] == "tests"]


def test_packages_have_at_most_12_modules() -> None:
    modules = Counter(
        PurePosixPath(relative(path)).parent.as_posix()
        for path in PYTHON_FILES
        if path.name not in ("__init__.py", "__main__.py")
        and not relative(path).startswith("tests/")
    )
    refuse(
        f"{package} has {number}"
        for package, number in sorted(modules.items())
        if number > MODULES_MAX and package not in ONE_FILE_A_KIND
    )


def test_test_folders_mirror_the_repository() -> None:
    folders = {path.parent.relative_to("tests") for path in TESTS}
    refuse(
        f"tests/{folder}"
        for folder in sorted(folders)
        if folder.parts and folder.parts[0] not in NOT_MIRRORED
        if not (REPOSITORY / folder).is_dir()
    )


def test_folders_of_tests_hold_nothing_but_tests() -> None:
    helpers = {"__init__.py", "conftest.py"}
    refuse(
        str(path)
        for path in TESTS
        if path.parts[1] != "support" and path.name not in helpers
        if not path.name.startswith("test_")
    )


def test_no_module_imports_from_a_test_module() -> None:
    refuse(
        f"{relative(path)} imports {name}"
        for path in PYTHON_FILES
        for name in _imported(ast.parse(path.read_text("utf-8")))
        if name.startswith("tests.")
        and (
            name.split(".")[1] == "conftest" or any(p.startswith("test_") for p in name.split("."))
        )
    )


def test_sleeps_of_tests_say_why() -> None:
    """Tests wait for conditions (`wait_until`); a sleep is for tests of time itself."""
    refuse(
        f"{path}:{number}"
        for path in TESTS
        if path.name != "waiting.py"
        for number, line in enumerate((REPOSITORY / path).read_text("utf-8").splitlines(), 1)
        if ".sleep(" in line and "#" not in line and path.parts[1] != "style"
    )


def _imported(tree: ast.Module) -> list[str]:
    """Return the modules that a module imports, wherever in it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found
