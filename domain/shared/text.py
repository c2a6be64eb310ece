"""Text: the form in which it is recorded, compared, and written into the cells of a CSV file.

A spreadsheet that opens an exported file would run a formula that a user typed into a name. The
characters, and the remedy of a `'` before the cell, are those of OWASP's page "CSV Injection".
`without_neutraliser(neutralised(text)) == text` for every text, so that an exported cell can be
imported again unchanged.
"""

from __future__ import annotations

import re
import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""The characters with which a cell of an exported file must not begin."""

UNDECOMPOSED = str.maketrans(
    {
        "æ": "ae",
        "œ": "oe",
        "ø": "o",
        "ł": "l",
        "đ": "d",
        "ð": "d",
        "þ": "th",
        "ħ": "h",
        "ŧ": "t",
        "ı": "i",
    }
)
"""Latin letters that Unicode does not decompose into a letter and an accent, in lower case."""
KEPT_MARKS = frozenset({0, 7, 8, 9})
"""Combining classes of what is no accent: letters and vowel signs that take space (0), nuktas (7),
voicing marks of kana (8) and viramas (9)."""

JOINABLE = str.maketrans('"\\[]\t\n\r', "\ue000\ue001\ue002\ue003\ue004\ue005\ue006")
"""Characters by which JSON encloses text or that it escapes, and those of Unicode's private use
area that stand for them."""

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_HIDDEN_FORMULA = re.compile(r"'+[=+\-@\t\r\n]")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable(text: str) -> str:
    """The text with U+FFFD in place of what PostgreSQL cannot store: NUL and lone surrogates."""
    return _UNSTORABLE.sub(REPLACEMENT, text)


def shortened(text: str, max_chars: int) -> str:
    """The text, cut to this length."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def composed(text: str) -> str:
    """The text in Unicode's normal form C: `e` and a combining accent become `é`."""
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """The text as it is compared: without case, accents and differences of form.

    `CAFÉ` and `cafe` are equal, and so are `Straße` and `STRASSE`, `Łódź` and `lodz`, `Ærø` and
    `aero`, `İstanbul`, `ıstanbul` and `istanbul`, full-width and other letters. Marks that make
    another letter, as in Japanese and in Indian scripts, are kept. Folding twice changes nothing.
    """
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(char for char in decomposed if unicodedata.combining(char) in KEPT_MARKS)
    return unicodedata.normalize("NFKC", plain.translate(UNDECOMPOSED))


def joinable(text: str) -> str:
    """The text with other characters for those by which JSON encloses text or that it escapes.

    So the texts of a JSON array can be joined in PostgreSQL, a line each, by removing what encloses
    them.
    """
    return text.translate(JOINABLE)


def neutralised(text: str) -> str:
    """The text, with a `'` before it if it looks like a formula.

    A text that already looks neutralised gets a second `'`, which `without_neutraliser` removes.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def without_neutraliser(text: str) -> str:
    """Undo `neutralised`; a text that it did not change is returned as it is."""
    return text[1:] if text.startswith("'") and _HIDDEN_FORMULA.match(text) else text
