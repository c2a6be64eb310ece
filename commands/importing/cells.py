"""Parse cells as people write them: dates, amounts, choices, and names of existing entities.

The parse functions return what the field models of the domain accept, or raise ValueError with the
rest of the sentence "The value …".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from difflib import get_close_matches
from enum import Enum, StrEnum
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

from pydantic import AwareDatetime
from pydantic.fields import FieldInfo

from domain.shared.text import folded, without_neutraliser

T = TypeVar("T")

MONTHS = 12
CURRENCY_SIGNS = "$€£¥ \u00a0"
CHOICES_CACHED_MAX = 1_000

CLOSE_RATIO_MIN = 0.85
"""Minimum similarity of two names that count as close (difflib's ratio, 1 is equal)."""
CLOSE_NAMES_MAX = 20_000
"""Maximum number of names that are searched for close ones; more would take too long."""
CLOSE_ATTEMPTS_MAX = 500
"""Maximum number of different names for which close ones are searched."""
CANDIDATES_SHOWN_MAX = 3
ANSWERS_CACHED_MAX = 50_000

_NUMERIC_DATE = re.compile(r"(\d{1,2})([/.\-])(\d{1,2})\2(\d{4})")
_GROUPED = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")
_SEPARATORS = re.compile(r"[\W_]+")
_DIGITS = re.compile(r"\d+")


class DateOrder(StrEnum):
    """How dates are written: 12/31/2017, 31/12/2017, or 2017-12-31 (which is always accepted)."""

    MDY = "mdy"
    DMY = "dmy"
    ISO = "iso"


class Form(Enum):
    """How the text of a cell becomes the value of a field."""

    TEXT = "text"
    DATE = "date"
    INSTANT = "instant"
    MONEY = "money"
    CHOICE = "choice"


# In Python a datetime is a date, so it comes first. AwareDatetime is a separate class.
_FORMS: tuple[tuple[Any, Form], ...] = (
    (AwareDatetime, Form.INSTANT),
    (datetime, Form.INSTANT),
    (date, Form.DATE),
    (Decimal, Form.MONEY),
)


def form_of(field: FieldInfo) -> tuple[Form, tuple[str, ...]]:
    """Return the form of a field of the domain, and its choices if it has any."""
    for type_ in _types(field.annotation):
        if issubclass(type_, StrEnum):
            return Form.CHOICE, tuple(type_)
        for base, form in _FORMS:
            if issubclass(type_, base):
                return form, ()
    return Form.TEXT, ()


def _types(annotation: Any) -> Iterator[type]:
    """The classes in a type, through unions and `Annotated`."""
    if get_origin(annotation) is None:
        if isinstance(annotation, type):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _types(part)


def unescaped(text: str) -> str:
    """Remove surrounding spaces and the `'` that hides a formula."""
    text = text.strip()
    return without_neutraliser(text) if text.startswith("'") else text


def parse_cell(text: str, form: Form, order: DateOrder, choices: tuple[str, ...]) -> Any:
    """The value of a cell in this form. Raises ValueError."""
    if form is Form.DATE:
        return parse_date(text, order)
    if form is Form.INSTANT:
        return parse_instant(text, order)
    if form is Form.MONEY:
        return parse_money(text)
    if form is Form.CHOICE:
        return parse_choice(text, choices)
    return text


def parse_date(text: str, order: DateOrder) -> date:
    """Parse a date: ISO (a time of day is dropped), or numbers in this order, four-digit year."""
    found = _NUMERIC_DATE.fullmatch(text)
    try:
        if not found or order is DateOrder.ISO:
            return datetime.fromisoformat(text).date()
        first, second, year = int(found[1]), int(found[3]), int(found[4])
        month, day = (first, second) if order is DateOrder.MDY else (second, first)
        return date(year, month, day)
    except ValueError:
        examples = {DateOrder.MDY: " or 12/31/2017", DateOrder.DMY: " or 31/12/2017"}
        message = f"is not a date (2017-12-31{examples.get(order, '')})"
        raise ValueError(message) from None


def parse_instant(text: str, order: DateOrder) -> datetime:
    """Parse a time: ISO 8601, UTC unless it names a zone. A date is its midnight in UTC."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return midnight(parse_date(text, order))
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def midnight(day: date) -> datetime:
    """The first moment of the day in UTC."""
    return datetime.combine(day, time(), UTC)


def parse_money(text: str) -> str:
    """The amount without currency signs and thousands separators: `$1,054.50` is `1054.50`."""
    amount = text.strip(CURRENCY_SIGNS)
    return amount.replace(",", "") if _GROUPED.fullmatch(amount) else amount


@lru_cache(CHOICES_CACHED_MAX)
def parse_choice(text: str, choices: tuple[str, ...]) -> str:
    """Return the matching choice, ignoring case, spaces and punctuation: `On Hold` is `on_hold`."""
    wanted = normalised(text)
    for choice in choices:
        if normalised(choice) == wanted:
            return str(choice)
    raise ValueError(f"is none of {', '.join(choices)}")


class DateOrderDetector:
    """Detects how the dates of a column are written, cell by cell."""

    def __init__(self) -> None:
        self._numeric = self._first_high = self._second_high = 0

    def add(self, value: str) -> None:
        """Take one more cell of the column into account."""
        found = _NUMERIC_DATE.fullmatch(value.strip())
        if found:
            self._numeric += 1
            self._first_high += int(found[1]) > MONTHS >= int(found[3])
            self._second_high += int(found[3]) > MONTHS >= int(found[1])

    @property
    def order(self) -> DateOrder | None:
        """The order of most unambiguous dates, month first on a tie; None if no date needs one."""
        if not self._numeric:
            return None
        return DateOrder.DMY if self._first_high > self._second_high else DateOrder.MDY

    @property
    def is_mixed(self) -> bool:
        """Whether some dates are certainly day first and others certainly month first."""
        return bool(self._first_high and self._second_high)

    @property
    def is_certain(self) -> bool:
        """Whether the dates allow one order only."""
        return bool(self._first_high) != bool(self._second_high)


@dataclass(frozen=True)
class Match(Generic[T]):
    """The known name that was found, its target, and how it was recognised."""

    name: str
    target: T
    how: Literal["exact", "normalised", "close"]


@dataclass(frozen=True)
class Miss:
    """No name was found, or several that are equally good (`candidates`)."""

    candidates: tuple[str, ...]


class Lookup(Generic[T]):
    """Finds the target of a typed name: exact before normalised before close, only if unique.

    Names whose numbers differ ("Store 12", "Store 13") are never close. Answers are cached; not
    thread-safe.
    """

    def __init__(self, entries: Iterable[tuple[str, T]]) -> None:
        self._exact: dict[str, list[tuple[str, T]]] = defaultdict(list)
        self._normalised: dict[str, list[tuple[str, T]]] = defaultdict(list)
        self.targets: set[T] = set()
        for name, target in entries:
            self.targets.add(target)
            self._exact[name].append((name, target))
            self._normalised[normalised(name)].append((name, target))
        self._answers: dict[str, Match[T] | Miss] = {}
        self._close_attempts = 0

    @property
    def names(self) -> list[str]:
        """The known names."""
        return list(self._exact)

    def find(self, name: str) -> Match[T] | Miss:
        """Return the only entry with this name, or why there is not exactly one."""
        answer = self._answers.get(name)
        if answer is None:
            if len(self._answers) >= ANSWERS_CACHED_MAX:
                self._answers.clear()
            answer = self._answers[name] = self._find(name)
        return answer

    def _find(self, name: str) -> Match[T] | Miss:
        if name in self._exact:
            return _only(self._exact[name], "exact")
        normal = normalised(name)
        if normal in self._normalised:
            return _only(self._normalised[normal], "normalised")
        self._close_attempts += 1
        if len(self._normalised) > CLOSE_NAMES_MAX or self._close_attempts > CLOSE_ATTEMPTS_MAX:
            return Miss(())
        numbers = _DIGITS.findall(normal)
        alike = [each for each in self._normalised if _DIGITS.findall(each) == numbers]
        close = get_close_matches(normal, alike, CANDIDATES_SHOWN_MAX, CLOSE_RATIO_MIN)
        return _only([entry for each in close for entry in self._normalised[each]], "close")


def _only(
    entries: list[tuple[str, T]], how: Literal["exact", "normalised", "close"]
) -> Match[T] | Miss:
    if len(entries) == 1:
        return Match(*entries[0], how)
    return Miss(tuple(name for name, _ in entries[:CANDIDATES_SHOWN_MAX]))


def normalised(name: str) -> str:
    """The name without case, accents, spaces and punctuation: `GTX Pro` and `gtx-pro` are equal."""
    # A name of punctuation only stays as it is; otherwise all such names would be equal.
    return _SEPARATORS.sub("", folded(name)) or name
