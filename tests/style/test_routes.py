"""The API has no SQL: routes parse, call a function with a name, and respond."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.settings import REPOSITORY

SQL = re.compile(
    r"""\b(?:SELECT\s+\S|INSERT\s+INTO|UPDATE\s+\w+(?:\s+AS\s+\w+)?\s+SET|DELETE\s+FROM
          |WITH\s+\w+\s+AS|TRUNCATE|(?:UN)?LISTEN\s|NOTIFY\s
          |SET\s+(?:LOCAL|TRANSACTION)|LOCK\s+TABLE)""",
    re.VERBOSE,
)
DRIVER_METHODS = frozenset({"execute", "executemany", "copy", "cursor"})
SOURCES = sorted((REPOSITORY / "api").rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def sql_in(source: str) -> Iterator[str]:
    """SQL in string constants other than docstrings, and uses of methods that send it."""
    tree = ast.parse(source)
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            value = node.value.decode() if isinstance(node.value, bytes) else node.value
            if isinstance(value, str) and SQL.search(value):
                yield f"line {node.lineno}: {value[:60]!r}"
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in DRIVER_METHODS:
            yield f"line {node.lineno}: {ast.unparse(node.func)}()"


@pytest.mark.parametrize(
    "source",
    [
        'A = "SELECT 1"',
        'A = f"UPDATE {table} SET x = 1"\nB = "UPDATE jobs SET x = 1"',
        'A = b"DELETE FROM jobs"',
        'connection.execute(f"LISTEN {channel}")',
        'A = """\nWITH page AS (TABLE jobs) TABLE page"""',
        "connection.execute(STATEMENT)",
        "with connection.cursor() as cursor:\n    pass",
    ],
)
def test_sql_is_found(source: str) -> None:
    assert list(sql_in(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""Routes never SELECT anything."""',
        'A = "Select an account, then update it"',
        "executor.run(act)",
        'A = "with `ids` as the selection"',
    ],
)
def test_other_code_is_not_found(source: str) -> None:
    assert not list(sql_in(source))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_api_has_no_sql(path: Path) -> None:
    assert not list(sql_in(path.read_text("utf-8")))
