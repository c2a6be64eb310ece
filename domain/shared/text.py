"""Text: the form in which it is recorded, and the form in which it is compared."""

from __future__ import annotations

import re
import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

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


def without_accents(text: str) -> str:
    """The text without accents and the differences of form that NFKD removes: `Café` is `Cafe`."""
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def folded(text: str) -> str:
    """The text as it is compared: without case and accents, `CAFÉ` and `cafe` are equal."""
    return without_accents(text).casefold()
