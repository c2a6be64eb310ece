"""Protection against formulas in the cells of a CSV file.

A spreadsheet that opens an exported file would run a formula that a user typed into a name. The
characters, and the remedy of a `'` before the cell, are those of OWASP's page "CSV Injection".
`without_neutraliser(neutralised(text)) == text` for every text, so that an exported cell can be
imported again unchanged.
"""

from __future__ import annotations

import re

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""The characters with which a cell of an exported file must not begin."""

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_HIDDEN_FORMULA = re.compile(r"'+[=+\-@\t\r\n]")


def neutralised(text: str) -> str:
    """The text, with a `'` before it if it looks like a formula.

    A text that already looks neutralised gets a second `'`, which `without_neutraliser` removes.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def without_neutraliser(text: str) -> str:
    """Undo `neutralised`; a text that it did not change is returned as it is."""
    return text[1:] if _HIDDEN_FORMULA.match(text) else text
