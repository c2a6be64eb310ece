"""A projection's version changes with the rows that its projector makes, not with its wording."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from projections.changes import Handler, Projection, Put, Table
from projections.engine.meaning import meaning, sql_meaning
from projections.engine.registry import PROJECTIONS, version, version_of
from projections.lifecycle import Lifecycle
from readmodels import table_definitions
from runtime.settings import REPOSITORY

PACKAGES = ("domain", "eventlog", "projections", "readmodels")
PRINT_VERSIONS = """
import orjson
from projections.engine.registry import PROJECTIONS, version
from projections.lifecycle import Lifecycle
from readmodels import table_definitions
definitions = table_definitions()
print(orjson.dumps({name: version(name, definitions[name]) for name in PROJECTIONS}).decode())
"""
NOW = {name: version(name, definition) for name, definition in table_definitions().items()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Copy the packages from which versions are computed."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=ignored)
    return tmp_path


def edit(file: Path, pattern: str, replacement: str) -> None:
    """Replace all matches of the pattern. Fails if the file has none."""
    changed, count = re.subn(pattern, replacement, file.read_text("utf-8"))
    assert count, f"{pattern!r} is not in {file.name}"
    file.write_text(changed, "utf-8")


def changed_versions(source: Path) -> set[str]:
    """Return the projections whose version differs in the edited copy."""
    command = [sys.executable, "-P", "-c", PRINT_VERSIONS]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    ran = subprocess.run(command, cwd=source, env=environment, capture_output=True, check=True)
    versions = orjson.loads(ran.stdout)
    assert versions.keys() == NOW.keys()
    return {name for name in NOW if versions[name] != NOW[name]}


def test_untouched_copy_has_same_versions(source: Path) -> None:
    assert changed_versions(source) == set()


def test_rewording_docstrings_and_comments_changes_no_version(source: Path) -> None:
    lifecycle = source / "projections" / "lifecycle.py"
    edit(lifecycle, '"""A row for each entity of a kind[^"]*"""', '"""Reworded."""')
    edit(lifecycle, '^"""[^"]*"""', '"""Reworded."""')
    edit(lifecycle, r"(    def _status_changed)", r"    # A comment.\n\1")
    edit(source / "readmodels" / "tables" / "accounts.sql", "^", "-- A comment.\n\n")
    assert changed_versions(source) == set()


def test_renaming_locals_parameters_and_helpers_changes_no_version(source: Path) -> None:
    lifecycle = source / "projections" / "lifecycle.py"
    edit(lifecycle, r"\bcustom\b", "own_fields")
    edit(lifecycle, r"\bversion_slot\b", "place_of_version")
    edit(lifecycle, r"\b_removed\b", "row_removed")
    assert changed_versions(source) == set()


def test_changing_rule_changes_only_versions_that_use_it(source: Path) -> None:
    duplicates = source / "projections" / "duplicates.py"
    edit(
        duplicates,
        r"self\._normalise\(value\) if value",
        "self._normalise(value) if value is not None",
    )
    assert changed_versions(source) == {"duplicates"}


def test_changing_declaration_changes_only_its_version(source: Path) -> None:
    edit(source / "projections" / "accounts.py", r'frozenset\(\{"done"\}\)', "frozenset()")
    assert changed_versions(source) == {"accounts"}


def test_changing_step_changes_versions_that_use_its_rule(source: Path) -> None:
    edit(source / "projections" / "lifecycle.py", r"row\[flag_slot\] = True", "row[flag_slot] = 1")
    assert changed_versions(source) == {
        name
        for name, projection in PROJECTIONS.items()
        if any(isinstance(rule, Lifecycle) for rule in projection.rules)
    }
    assert "jobs" not in changed_versions(source)


def test_changing_domain_action_name_changes_no_projection(source: Path) -> None:
    edit(source / "domain" / "shared" / "entity.py", 'ACTION = "restore"', 'ACTION = "undelete"')
    assert changed_versions(source) == set()


def test_changing_table_changes_its_projection(source: Path) -> None:
    edit(source / "readmodels" / "tables" / "notes.sql", r"title\s+text", "title varchar")
    assert changed_versions(source) == {"notes"}


def test_upcaster_changes_projections_that_handle_its_topic(source: Path) -> None:
    upcaster = '\n\n@upcaster("note.created.v0", "note.created")\ndef _(data): return data\n'
    file = source / "eventlog" / "upcast.py"
    file.write_text(file.read_text("utf-8") + upcaster, "utf-8")
    assert changed_versions(source) == {"accounts", "notes"}


@pytest.mark.parametrize(
    ("file", "pattern", "replacement"),
    [
        ("projections/engine/rows/fold.py", r"version < self.version", "version <= self.version"),
        ("projections/engine/rows/memory.py", r"change.key == event", "change.key != event"),
        ("projections/engine/rows/memory.py", r"or 0\) \+ amount", "or 0) - amount"),
        (
            "projections/engine/rows/statements.py",
            r"t.version < i.version",
            "t.version <= i.version",
        ),
        ("projections/engine/rows/statements.py", r"jsonb_strip_nulls", "to_jsonb"),
        ("projections/engine/rows/copying.py", r"coalesce\(sum", "coalesce(max"),
        ("projections/engine/rows/copying.py", r"return str\(value\)", "return repr(value)"),
        ("projections/changes.py", r"self.by_account and account", "self.by_account or account"),
        ("eventlog/reading/recorded.py", r'\+ ":00"', '+ ":30"'),
        ("eventlog/reading/part.py", r'"\+00:00"', '"+00:30"'),
    ],
)
def test_changing_the_code_that_makes_rows_changes_every_version(
    source: Path, file: str, pattern: str, replacement: str
) -> None:
    edit(source / file, pattern, replacement)
    assert changed_versions(source) == NOW.keys()


def test_renaming_in_the_code_that_makes_rows_changes_no_version(source: Path) -> None:
    folding = source / "projections" / "engine" / "rows" / "fold.py"
    edit(folding, r"\bearlier\b", "before")
    assert changed_versions(source) == set()


def version_with(handler: Handler) -> str:
    """Return the version of a projection with this handler."""
    return version_of(Projection("p", (Table("t"),), handlers={"note.created": handler}), "")


def closed_over(table: str) -> Handler:
    return lambda event: (Put(table, event.stream_id, {}),)


def test_closure_variables_of_handler_change_version() -> None:
    assert version_with(closed_over("one")) == version_with(closed_over("one"))
    assert version_with(closed_over("one")) != version_with(closed_over("two"))


def test_lambdas_on_one_line_are_distinguished() -> None:
    first, second, third = (lambda one: one + 1), (lambda one: one + 2), (lambda two: two + 1)
    assert meaning(first) != meaning(second)
    assert meaning(first) == meaning(third)


def test_sql_is_compared_without_comments_and_layout() -> None:
    assert sql_meaning("a  --  b\n  c") == sql_meaning("a\nc -- d")
    assert sql_meaning("'a  --  b'") != sql_meaning("'a -- b'")


def test_value_without_description_is_refused() -> None:
    with pytest.raises(TypeError, match="no description"):
        meaning(object.__new__(type("Opaque", (), {})))
