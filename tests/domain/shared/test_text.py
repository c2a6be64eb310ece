"""Text is compared in one form; cells are harmless in a spreadsheet and can be restored."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.shared.text import FORMULA_STARTS, folded, neutralised, without_neutraliser

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


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["Café", "CAFÉ", "Cafe\u0301", "cafe", "ｃａｆｅ"], "cafe"),
        (["Straße", "STRASSE", "STRAẞE"], "strasse"),
        (["İstanbul", "ıstanbul", "ISTANBUL"], "istanbul"),
        (["Łódź", "LODZ"], "lodz"),
        (["Ærø", "AERO"], "aero"),
        (["Ὀδυσσεύς", "ΟΔΥΣΣΕΥΣ"], "οδυσσευσ"),
        (["Ёлкин", "елкин"], "елкин"),
        (["ガラス", "カ\u3099ラス"], "ガラス"),
        (["हिन्दी"], "हिन्दी"),
        (["한국", unicodedata.normalize("NFD", "한국")], "한국"),
        ([""], ""),
    ],
)
def test_case_accents_and_forms_make_no_difference(texts: list[str], form: str) -> None:
    assert {folded(text) for text in texts} == {form}


def test_marks_that_make_another_letter_are_kept() -> None:
    assert folded("ガラス") != folded("カラス")


def test_every_character_folds_alike_in_every_case_and_form() -> None:
    wrong = []
    for number in range(sys.maxunicode + 1):
        char = chr(number)
        if "\ud800" <= char <= "\udfff":
            continue
        for text in (char, f"a{char}", f"{char}\u0301"):
            form = folded(text)
            composed = (unicodedata.normalize(name, text) for name in ("NFC", "NFD"))
            others = (form, text.upper(), text.lower(), text.casefold(), *composed)
            wrong += [(text, other) for other in others if folded(other) != form]
    assert wrong == []
