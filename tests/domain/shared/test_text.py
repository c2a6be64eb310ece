"""Cells are harmless in a spreadsheet and can be restored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.shared.text import FORMULA_STARTS, neutralised, without_neutraliser

CELLS = st.text() | st.text(alphabet="'=+-@\t\r\na 1")


@given(CELLS)
def test_a_neutralised_cell_can_be_restored(text: str) -> None:
    assert without_neutraliser(neutralised(text)) == text


@given(CELLS)
def test_no_neutralised_cell_starts_like_a_formula(text: str) -> None:
    assert not neutralised(text).startswith(FORMULA_STARTS)


@pytest.mark.parametrize(
    ("text", "cell"),
    [("=1+1", "'=1+1"), ("'=1", "''=1"), ("O'Neill", "O'Neill"), ("'tis", "'tis"), ("", "")],
)
def test_only_text_that_looks_like_a_formula_is_changed(text: str, cell: str) -> None:
    assert neutralised(text) == cell
