"""Where SQL may be: none in api/, and on the table `events` only in eventlog/."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.source_files import refuse, relative, tracked_files

SQL = re.compile(
    r"""\b(?:SELECT\s+\S|INSERT\s+INTO|UPDATE\s+\w+(?:\s+AS\s+\w+)?\s+SET|DELETE\s+FROM
          |WITH\s+\w+\s+AS|TRUNCATE|(?:UN)?LISTEN\s|NOTIFY\s|SET\s+(?:LOCAL|TRANSACTION)
          |LOCK\s+TABLE)""",
    re.VERBOSE,
)
DRIVER_METHODS = frozenset({"execute", "executemany", "copy", "cursor"})
MAY_NAME_EVENTS = ("eventlog/", "tests/", "benchmarks/")
ON_EVENTS = re.compile(
    r"""(?:\b(?:FROM|JOIN|INTO|UPDATE|TABLE|ONLY|COPY|USING|ANALYZE|VACUUM|LOCK|ON)\s+
          |,\s*(?=(?:public\.)?events\s+AS\b))
        (?:public\.)?"?events"?(?![\w.])
      |\b(?:append_events?(?:_each|_together)?|read_streams|readable_position|log_behind|last_event_position
          |workspaces_with_news|news_of)\s*\(
      |\bevents_position_seq\b""",
    re.VERBOSE,
)
COMMENT = re.compile(r"--[^\n]*")


def string_constants(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of each string or bytes constant, without docstrings."""
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            if isinstance(node.value, str):
                yield node.lineno, node.value
            elif isinstance(node.value, bytes):
                yield node.lineno, node.value.decode(errors="replace")


def sql_lines(source: str) -> list[int]:
    """Return the lines with SQL in a string, or with a call of a method that sends it."""
    tree = ast.parse(source)
    found = {line for line, text in string_constants(tree) if SQL.search(text)}
    found |= {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in DRIVER_METHODS
    }
    return sorted(found)


def lines_on_events(source: str) -> list[int]:
    """Return the lines with SQL on `events`, or with an SQL identifier of that name."""
    tree = ast.parse(source)
    found = {line for line, text in string_constants(tree) if ON_EVENTS.search(text)}
    found |= {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Identifier")
        if any(isinstance(each, ast.Constant) and each.value == "events" for each in node.args)
    }
    return sorted(found)


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
    assert sql_lines(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""Routes never SELECT anything."""',
        'A = "Select an account, then update it"',
        "executor.run(act)",
        'A = "with `ids` as the selection"',
    ],
)
def test_code_without_sql_is_not_found(source: str) -> None:
    assert sql_lines(source) == []


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
    assert lines_on_events(source) == [1]


@pytest.mark.parametrize(
    "source",
    [
        '"""Rows are made FROM events."""',
        'A = "SELECT position, events, error FROM projection_parked"',
        'A = "SELECT name FROM events_of_old"',
        "position = readable_position(connection)",
    ],
)
def test_sql_on_other_tables_is_not_found(source: str) -> None:
    assert lines_on_events(source) == []


def test_api_has_no_sql() -> None:
    refuse(
        f"{relative(path)}:{line}"
        for path in tracked_files("api/*.py")
        for line in sql_lines(path.read_text("utf-8"))
    )


def test_no_python_outside_eventlog_has_sql_on_events() -> None:
    refuse(
        f"{relative(path)}:{line}"
        for path in tracked_files("*.py")
        if not relative(path).startswith(MAY_NAME_EVENTS)
        for line in lines_on_events(path.read_text("utf-8"))
    )


def test_no_sql_file_outside_eventlog_names_events() -> None:
    refuse(
        relative(path)
        for path in tracked_files("*.sql")
        if not relative(path).startswith(MAY_NAME_EVENTS)
        if ON_EVENTS.search(COMMENT.sub("", path.read_text("utf-8")))
    )
