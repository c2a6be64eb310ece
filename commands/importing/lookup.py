"""Finding a thing by a name that somebody typed: as it is, normalised, or as a close match."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

CLOSE_RATIO_MIN = 0.85
"""How alike two names must be to count as close (difflib's ratio, 1 is equal)."""
CLOSE_NAMES_MAX = 20_000
"""Among more names than this none is looked for by likeness: it would take too long."""
CLOSE_ATTEMPTS_MAX = 500
"""After so many different names that were not found, likeness is not tried any more."""
CANDIDATES_SHOWN_MAX = 3
ANSWERS_MAX = 50_000
"""So many answers are remembered; then it begins anew, so that memory does not grow with a file."""

_SEPARATORS = re.compile(r"[\W_]+")
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Match(Generic[T]):
    """Found: the name as it is known, what it stands for, and how it was recognised."""

    name: str
    target: T
    how: Literal["exact", "normalised", "close"]


@dataclass(frozen=True)
class Miss:
    """Not found, or more than one that it could be."""

    candidates: tuple[str, ...]


class Lookup(Generic[T]):
    """Names and what they stand for. Remembers what it was asked; not thread-safe."""

    def __init__(self, entries: Iterable[tuple[str, T]]) -> None:
        self._exact: dict[str, list[tuple[str, T]]] = defaultdict(list)
        self._normal: dict[str, list[tuple[str, T]]] = defaultdict(list)
        self.targets: set[T] = set()
        for name, target in entries:
            self.targets.add(target)
            self._exact[name].append((name, target))
            self._normal[normalised(name)].append((name, target))
        self._answers: dict[str, Match[T] | Miss] = {}
        self._close_attempts = 0

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._exact.values())

    @property
    def names(self) -> list[str]:
        """The names that are known."""
        return list(self._exact)

    def find(self, name: str) -> Match[T] | Miss:
        """The one thing with this name: exact before normalised before close, and only if unique.

        Names whose numbers differ ("Store 12", "Store 13") are never close.
        """
        answer = self._answers.get(name)
        if answer is None:
            if len(self._answers) >= ANSWERS_MAX:
                self._answers.clear()
            answer = self._answers[name] = self._find(name)
        return answer

    def _find(self, name: str) -> Match[T] | Miss:
        if name in self._exact:
            return _only(self._exact[name], "exact")
        normal = normalised(name)
        if normal in self._normal:
            return _only(self._normal[normal], "normalised")
        return self._closest(normal)

    def _closest(self, normal: str) -> Match[T] | Miss:
        self._close_attempts += 1
        if len(self._normal) > CLOSE_NAMES_MAX or self._close_attempts > CLOSE_ATTEMPTS_MAX:
            return Miss(())
        numbers = _DIGITS.findall(normal)
        alike = [name for name in self._normal if _DIGITS.findall(name) == numbers]
        close = get_close_matches(normal, alike, CANDIDATES_SHOWN_MAX, CLOSE_RATIO_MIN)
        return _only([entry for each in close for entry in self._normal[each]], "close")


def normalised(name: str) -> str:
    """The name without case, accents, spaces and punctuation: `GTX Pro` and `gtx-pro` are alike."""
    decomposed = unicodedata.normalize("NFKD", name)
    plain = "".join(char for char in decomposed if not unicodedata.combining(char))
    # What has nothing but punctuation stays itself, lest all such names be one.
    return _SEPARATORS.sub("", plain).casefold() or name


def _only(
    entries: list[tuple[str, T]], how: Literal["exact", "normalised", "close"]
) -> Match[T] | Miss:
    if len(entries) == 1:
        return Match(*entries[0], how)
    return Miss(tuple(name for name, _ in entries[:CANDIDATES_SHOWN_MAX]))
