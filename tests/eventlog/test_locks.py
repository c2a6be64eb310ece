"""Every class of advisory lock has one number, which is written only in eventlog/locks.py."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from eventlog import locks
from eventlog.migrations import SQL_FOLDER
from tests.support.source_files import tracked_files

RELEASED = sorted(SQL_FOLDER.glob("*.sql"))
CLASSES: dict[str, int] = {
    name: value[0] if isinstance(value, tuple) else value
    for name, value in vars(locks).items()
    if name.endswith("_LOCK") and isinstance(value, (int, tuple))
}
LITERAL_CLASS = re.compile(
    r"advisory\w*\s*\(\s*\(*\s*(\d+)"  # pg_advisory_lock(66, …), pg_advisory_lock((65::bigint …
    r"|classid\b[^\n=]*=\s*(\d+)"  # the same class in pg_locks
)


def literal_classes(text: str) -> set[int]:
    """Return the classes of advisory locks that the text contains as numbers."""
    return {int(first or second) for first, second in LITERAL_CLASS.findall(text)}


def test_classes_are_distinct() -> None:
    doubled = [number for number, n in Counter(CLASSES.values()).items() if n > 1]
    assert not doubled, f"{doubled}: {CLASSES}"


def test_classes_fit_the_top_byte_of_a_key() -> None:
    assert all(0 < number < 128 for number in CLASSES.values())


def test_released_migrations_contain_the_released_classes() -> None:
    written = set[int]().union(*(literal_classes(path.read_text("utf-8")) for path in RELEASED))
    assert written == {locks.WRITER_LOCK, locks.REQUEST_LOCK, locks.CLAIMED_TIME_LOCK}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SELECT pg_try_advisory_lock(72, hashtext(%s))", 72),
        ("pg_try_advisory_xact_lock_shared((65::bigint << 56) | bound)", 65),
        ("SELECT pg_advisory_xact_lock(\n    (74::bigint << 56) | 1)", 74),
        ("WHERE l.classid = 68 AND", 68),
        ("(classid::bigint >> 24) = 65", 65),
    ],
)
def test_literal_class_is_found(text: str, number: int) -> None:
    assert literal_classes(text) == {number}


def test_no_other_file_contains_a_literal_class() -> None:
    checked = [
        path for path in tracked_files("*.py", "*.sql") if path not in (*RELEASED, Path(__file__))
    ]
    found = {str(path): literal_classes(path.read_text("utf-8")) for path in checked}
    assert {path: numbers for path, numbers in found.items() if numbers} == {}
