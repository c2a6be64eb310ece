"""Prose and names are plain English: words of the former dialect are refused."""

from __future__ import annotations

import re

import pytest

from runtime.settings import REPOSITORY
from tests.support.source_files import refuse, relative, tracked_files

BANNED = re.compile(
    r"""(?ix)
    \b(
        who(m|so)?ever | nobody | lest | wherefrom | anew | told | tells? | houses? | desks?
        | lookouts? | attendants? | befall(s|en)? | befell | mend(s|ed|ing)? | bury | buried
        | hang(s|ing)?\ on | hung\ on | take(s|n)?\ turns? | left\ the\ house
        | what\ there\ is | where\ there\ (is|are)\ none | of\ its\ own\ accord
    )\b
    """
)
"""Replacements: docs/GLOSSARY.md has the terms; a sentence names who does what."""

ALLOWED = re.compile(
    r"--anew\b"  # an option of the command line
    r"|mend-claims|mend_claims"  # a command of the command line
    r"|tellConfirmed"  # a stored command name
    r"|[\"`']nobody[\"`']"  # the account of Unix
)
"""Names that users type or that are stored."""


def banned_words(text: str) -> list[str]:
    """The banned words of a text, in names with underscores as well."""
    words = ALLOWED.sub("", text).replace("_", " ")
    return [match.group(0).lower() for match in BANNED.finditer(words)]


@pytest.mark.parametrize(
    "text",
    ["Whoever asks", "def test_nobody_is_told()", "it hangs on an account", "What there is, stays"],
)
def test_banned_words_are_found(text: str) -> None:
    assert banned_words(text)


@pytest.mark.parametrize("text", ["annals relay --anew", "annals mend-claims", "a warehouse"])
def test_allowed_words_are_not_found(text: str) -> None:
    assert not banned_words(text)


def test_no_file_has_a_banned_word() -> None:
    # Released migrations keep their text, because it is part of their checksum.
    sources = {
        path
        for pattern in ("*.py", "*.md", "*.sql", "*.yaml", "*.toml")
        for path in tracked_files(pattern)
        if path.parent != REPOSITORY / "eventlog" / "sql" and path.name != "test_words.py"
    }
    refuse(
        f"{relative(path)}:{number}: {word}"
        for path in sorted(sources)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        for word in banned_words(line)
    )
