"""What each source file looks like: one test a rule, which lists all offenders."""

from __future__ import annotations

import ast
import re

from tests.support.source_files import (
    PACKAGES,
    functions,
    is_of_program,
    refuse,
    relative,
    tracked_files,
)

FUNCTION_MAX_LINES = 60
MODULE_MAX_LINES = 500
UNFINISHED = re.compile(r"(?:#|--|\"\"\").*\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b")

SOURCES = {path: path.read_text("utf-8") for path in tracked_files("*.py")}
TREES = {path: ast.parse(text) for path, text in SOURCES.items()}


def test_every_package_is_covered() -> None:
    assert {relative(path).split("/")[0] for path in SOURCES} >= {*PACKAGES, "tests"}


def test_functions_are_at_most_60_lines() -> None:
    refuse(
        f"{relative(path)}: {each.name} has {length}"
        for path, tree in TREES.items()
        for each in functions(tree)
        if (length := (each.end_lineno or each.lineno) - each.lineno + 1) > FUNCTION_MAX_LINES
    )


def test_modules_of_the_program_are_at_most_500_lines() -> None:
    refuse(
        f"{relative(path)} has {length}"
        for path, text in SOURCES.items()
        if is_of_program(path) and (length := len(text.splitlines())) > MODULE_MAX_LINES
    )


def test_modules_have_a_docstring() -> None:
    refuse(
        relative(path)
        for path, tree in TREES.items()
        if not relative(path).startswith("benchmarks/") and not ast.get_docstring(tree)
    )


def test_nothing_is_left_unfinished() -> None:
    texts = {**SOURCES, **{path: path.read_text("utf-8") for path in tracked_files("*.sql")}}
    refuse(
        f"{relative(path)}: {found}"
        for path, text in texts.items()
        for found in UNFINISHED.findall(text)
    )
