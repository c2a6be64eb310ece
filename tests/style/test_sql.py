"""Only eventlog/ has SQL on the table `events` and on the functions that read or write it."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.settings import REPOSITORY

EXEMPT = ("eventlog/", "tests/", "benchmarks/")
ON_EVENTS = re.compile(
    r"""(?:\b(?:FROM|JOIN|INTO|UPDATE|TABLE|ONLY|COPY|USING|ANALYZE|VACUUM|LOCK|ON)\s+
          |,\s*(?=(?:public\.)?events\s+AS\b))
        (?:public\.)?"?events"?(?![\w.])
      |\b(?:append_events(?:_each)?|readable_position|log_behind|last_event_position
          |workspaces_with_news|news_of)\s*\(
      |\bevents_position_seq\b""",
    re.VERBOSE,
)
COMMENT = re.compile(r"--[^\n]*")


def files(*patterns: str) -> list[Path]:
    """The repository's files that match, except for those that may have SQL on events."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [
        REPOSITORY / name
        for name in sorted(set(listed))
        if not name.startswith(EXEMPT) and (REPOSITORY / name).exists()
    ]


def texts(source: str) -> Iterator[tuple[int, str]]:
    """The string constants of Python code with their lines, without docstrings."""
    tree = ast.parse(source)
    silent = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in silent:
            if isinstance(node.value, str):
                yield node.lineno, node.value
            elif isinstance(node.value, bytes):
                yield node.lineno, node.value.decode(errors="replace")


def identifiers(source: str) -> Iterator[int]:
    """The lines at which Python code makes an SQL identifier of the table's name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Identifier"):
            names = [each.value for each in node.args if isinstance(each, ast.Constant)]
            if "events" in names:
                yield node.lineno


def sql_on_events(source: str) -> list[int]:
    """The lines of Python code that have SQL on events."""
    found = [line for line, text in texts(source) if ON_EVENTS.search(text)]
    return sorted({*found, *identifiers(source)})


@pytest.mark.parametrize(
    "source",
    [
        'A = "SELECT count(*) FROM events"',
        'A = f"SELECT {x} FROM events AS e WHERE {y}"',
        'A = """SELECT 1\n  FROM a JOIN\n events AS e ON true"""',
        'A = "SELECT 1 FROM span, events AS e"',
        'A = b"COPY public.events TO STDOUT"',
        'A = "SELECT readable_position()"',
        'A = "SELECT * FROM news_of(%s, 1, 2)"',
        "A = \"SELECT nextval('events_position_seq')\"",
        'A = sql.Identifier("public", "events")',
    ],
)
def test_sql_on_events_is_found(source: str) -> None:
    assert sql_on_events(source) == [1]


@pytest.mark.parametrize(
    "source",
    [
        '"""Rows are made FROM events."""',
        'A = "SELECT position, events, error FROM projection_parked"',
        'A = "SELECT name FROM events_of_old"',
        "position = readable_position(connection)",
    ],
)
def test_other_code_is_not_found(source: str) -> None:
    assert sql_on_events(source) == []


def test_no_python_outside_eventlog_has_sql_on_events() -> None:
    found = {
        str(path.relative_to(REPOSITORY)): lines
        for path in files("*.py")
        if (lines := sql_on_events(path.read_text("utf-8")))
    }
    assert found == {}


def test_no_sql_file_outside_eventlog_names_events() -> None:
    found = [
        str(path.relative_to(REPOSITORY))
        for path in files("*.sql")
        if ON_EVENTS.search(COMMENT.sub("", path.read_text("utf-8")))
    ]
    assert found == []
