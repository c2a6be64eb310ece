"""docs/how-to/add-an-entity.md quotes real code, and a kind needs one file per layer."""

from __future__ import annotations

import re

import pytest

from domain.shared.kinds import KINDS
from projections.engine.registry import PROJECTIONS
from readmodels.lists import LISTS
from runtime.settings import REPOSITORY
from tests.support.kinds import DESCRIBED_KINDS

DOCUMENT = (REPOSITORY / "docs/how-to/add-an-entity.md").read_text("utf-8")
QUOTED = re.compile(r"^`([\w/.]+)`\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`((?:\w+/)+\w+\.(?:py|sql))`")
LAYERS = ("domain", "projections", "readmodels/tables", "readmodels/kinds", "api/routes")
PROPOSAL_REFERENCE = re.compile(
    r"""domain\.proposal\b|["'/]proposals["'/]|read\.proposals|["']proposal\."""
)
FOLDERS = (
    *("domain", "eventlog", "commands", "projections", "readmodels", "replay"),
    *("runtime", "api", "server"),
)
OMISSION = "…"


PIECES = [
    (path, piece)
    for path, code in QUOTED.findall(DOCUMENT)
    for piece in re.split(rf"^\s*{OMISSION}\n", code, flags=re.MULTILINE)
]
DEMO_FILE = "demo_data.py"
"""The demo data has proposals although it does not have to."""


@pytest.mark.parametrize(("path", "piece"), PIECES)
def test_quoted_code_is_in_its_file(path: str, piece: str) -> None:
    assert piece.strip()
    assert piece in (REPOSITORY / path).read_text("utf-8")


@pytest.mark.parametrize("path", sorted(set(NAMED.findall(DOCUMENT))))
def test_every_named_file_exists(path: str) -> None:
    assert (REPOSITORY / path).is_file()


def test_each_layer_has_one_file_for_proposals() -> None:
    found = [
        path.relative_to(REPOSITORY)
        for folder in FOLDERS
        for path in (REPOSITORY / folder).rglob("*proposal*")
        if path.suffix in {".py", ".sql"}
    ]
    assert sorted(str(path.parent) for path in found) == sorted(LAYERS)
    assert {str(path) for path in found} <= set(NAMED.findall(DOCUMENT))


def test_no_other_file_refers_to_proposals() -> None:
    """Other files use the word for an opportunity stage or an import column."""
    sources = {
        path
        for folder in FOLDERS
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in {".py", ".sql"} and "proposal" not in path.name and path.name != DEMO_FILE
    }
    assert len(sources) > len(FOLDERS)
    assert [each for each in sources if PROPOSAL_REFERENCE.search(each.read_text("utf-8"))] == []


def test_proposals_are_registered_automatically() -> None:
    assert KINDS["proposal"].PLURAL == "proposals"
    assert "proposals" in PROJECTIONS
    assert "proposals" in LISTS
    assert "proposal" in {each.kind.KIND for each in DESCRIBED_KINDS}
