"""Cells of a CSV file that a spreadsheet would take for a formula: made harmless, and back again.

A file that we hand out may be opened in a spreadsheet, which runs what a stranger typed into a
name. The characters are those of OWASP's page "CSV Injection"; the remedy is its own too, a `'`
before the cell. `without_neutraliser(neutralised(text)) == text` for every text: an exported
cell can be imported again unchanged.
"""

from __future__ import annotations

import re

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a cell must not begin with when a spreadsheet may open it."""

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_HIDDEN_FORMULA = re.compile(r"'+[=+\-@\t\r\n]")


def neutralised(text: str) -> str:
    """The cell as a spreadsheet may safely open it: what looks like a formula gets a `'`.

    A text that already looks neutralised gets a second `'`, which `without_neutraliser` removes.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def without_neutraliser(text: str) -> str:
    """The cell as it was before `neutralised`; any other text stays as it is."""
    return text[1:] if _HIDDEN_FORMULA.match(text) else text
