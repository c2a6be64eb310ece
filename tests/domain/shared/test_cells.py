"""Cells are harmless in a spreadsheet, and come back as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.shared.cells import FORMULA_STARTS, neutralised, without_neutraliser

CELLS = st.text() | st.text(alphabet="'=+-@\t\r\na 1")


@given(CELLS)
def test_what_was_neutralised_is_restored(text: str) -> None:
    assert without_neutraliser(neutralised(text)) == text


@given(CELLS)
def test_no_cell_begins_as_a_formula_does(text: str) -> None:
    assert not neutralised(text).startswith(FORMULA_STARTS)


@pytest.mark.parametrize(
    ("text", "cell"),
    [("=1+1", "'=1+1"), ("'=1", "''=1"), ("O'Neill", "O'Neill"), ("'tis", "'tis"), ("", "")],
)
def test_only_what_looks_like_a_formula_is_changed(text: str, cell: str) -> None:
    assert neutralised(text) == cell
