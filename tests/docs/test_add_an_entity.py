"""docs/how-to/add-an-entity.md shows what is there, and a kind is what it says: a file a layer."""

from __future__ import annotations

import re

import pytest

from domain.shared.kinds import KINDS
from projections.engine.registry import PROJECTIONS
from readmodels.lists import LISTS
from runtime.settings import REPOSITORY
from tests.support.kinds import DESCRIBED_KINDS

DOCUMENT = (REPOSITORY / "docs/how-to/add-an-entity.md").read_text("utf-8")
SHOWN = re.compile(r"^`([\w/.]+)`\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`((?:\w+/)+\w+\.(?:py|sql))`")
LAYERS = ("domain", "projections", "readmodels/tables", "readmodels/kinds", "api/routes")
OF_PROPOSALS = re.compile(
    r"""domain\.proposal\b|["'/]proposals["'/]|read\.proposals|["']proposal\."""
)
FOLDERS = (
    *("domain", "eventlog", "commands", "projections", "readmodels", "replay"),
    *("runtime", "api", "server"),
)
LEFT_OUT = "…"


PIECES = [
    (path, piece)
    for path, shown in SHOWN.findall(DOCUMENT)
    for piece in re.split(rf"^\s*{LEFT_OUT}\n", shown, flags=re.MULTILINE)
]
SHOWS = "demo_data.py"
"""The demo shows them, and need not."""


@pytest.mark.parametrize(("path", "piece"), PIECES)
def test_what_is_shown_is_what_the_file_says(path: str, piece: str) -> None:
    assert piece.strip()
    assert piece in (REPOSITORY / path).read_text("utf-8")


@pytest.mark.parametrize("path", sorted(set(NAMED.findall(DOCUMENT))))
def test_every_file_that_is_named_is_there(path: str) -> None:
    assert (REPOSITORY / path).is_file()


def test_each_layer_has_one_file_of_proposals() -> None:
    found = [
        path.relative_to(REPOSITORY)
        for folder in FOLDERS
        for path in (REPOSITORY / folder).rglob("*proposal*")
        if path.suffix in {".py", ".sql"}
    ]
    assert sorted(str(path.parent) for path in found) == sorted(LAYERS)
    assert {str(path) for path in found} <= set(NAMED.findall(DOCUMENT))


def test_nothing_else_has_to_know_of_them() -> None:
    """What else says `proposal` is a stage of an opportunity, or what a column may become."""
    sources = {
        path
        for folder in FOLDERS
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in {".py", ".sql"} and "proposal" not in path.name and path.name != SHOWS
    }
    assert len(sources) > len(FOLDERS)
    assert [each for each in sources if OF_PROPOSALS.search(each.read_text("utf-8"))] == []


def test_they_are_found_by_looking() -> None:
    assert KINDS["proposal"].PLURAL == "proposals"
    assert "proposals" in PROJECTIONS
    assert "proposals" in LISTS
    assert "proposal" in {each.kind.KIND for each in DESCRIBED_KINDS}
