"""Cells as values of the domain: dates, amounts and choices as people write them.

Every function takes text and returns what the domain's field models accept, or raises ValueError
with the rest of the sentence "The value …".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, StrEnum
from functools import lru_cache
from typing import Any, get_args, get_origin

from pydantic import AwareDatetime
from pydantic.fields import FieldInfo

from commands.importing.lookup import normalised
from domain.shared.cells import without_neutraliser

_NUMERIC_DATE = re.compile(r"(\d{1,2})([/.\-])(\d{1,2})\2(\d{4})")
_GROUPED = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")
MONTHS = 12
CHOICES_REMEMBERED = 1_000
CURRENCY_SIGNS = "$€£¥ \u00a0"


class DateOrder(StrEnum):
    """How dates are written: 12/31/2017, 31/12/2017, or only 2017-12-31 (which all accept)."""

    MDY = "mdy"
    DMY = "dmy"
    ISO = "iso"


@dataclass(frozen=True)
class DetectedOrder:
    """How dates are written: ambiguous where no value settles it, mixed where they differ."""

    order: DateOrder
    is_ambiguous: bool = False
    is_mixed: bool = False

    @property
    def is_certain(self) -> bool:
        """Whether the values leave no doubt."""
        return not (self.is_ambiguous or self.is_mixed)


class Form(Enum):
    """How the text of a cell becomes the value of a field."""

    TEXT = "text"
    DATE = "date"
    INSTANT = "instant"
    MONEY = "money"
    CHOICE = "choice"


def form_of(field: FieldInfo) -> tuple[Form, tuple[str, ...]]:
    """The form of a field of the domain, and its choices where it has some."""
    for type_ in _types(field.annotation):
        if issubclass(type_, StrEnum):
            return Form.CHOICE, tuple(type_)
        for base, form in _FORMS:
            if issubclass(type_, base):
                return form, ()
    return Form.TEXT, ()


# A datetime is a date for Python, so it comes first. AwareDatetime is a class of its own.
_FORMS: tuple[tuple[Any, Form], ...] = (
    (AwareDatetime, Form.INSTANT),
    (datetime, Form.INSTANT),
    (date, Form.DATE),
    (Decimal, Form.MONEY),
)


def _types(annotation: Any) -> Iterator[type]:
    """The classes in a type, through unions and `Annotated`."""
    if get_origin(annotation) is None:
        if isinstance(annotation, type):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _types(part)


class OrderSeen:
    """How the dates of a column are written, as far as it was read."""

    def __init__(self) -> None:
        self._numeric = self._first_high = self._second_high = 0

    def add(self, value: str) -> None:
        """One more cell of the column."""
        found = _NUMERIC_DATE.fullmatch(value.strip())
        if found:
            self._numeric += 1
            self._first_high += int(found[1]) > MONTHS >= int(found[3])
            self._second_high += int(found[3]) > MONTHS >= int(found[1])

    @property
    def order(self) -> DetectedOrder | None:
        """The order; None where all dates are ISO or there are none."""
        if not self._numeric:
            return None
        first, second = self._first_high, self._second_high
        return DetectedOrder(
            DateOrder.DMY if first > second else DateOrder.MDY,
            is_ambiguous=not first and not second,
            is_mixed=bool(first and second),
        )


def parse_date(text: str, order: DateOrder) -> date:
    """A date: ISO (a time of day is cut off), or numbers in this order, the year of four digits."""
    found = _NUMERIC_DATE.fullmatch(text)
    if found and order is not DateOrder.ISO:
        first, second, year = int(found[1]), int(found[3]), int(found[4])
        month, day = (first, second) if order is DateOrder.MDY else (second, first)
        try:
            return date(year, month, day)
        except ValueError:
            raise ValueError(f"is not a date ({_examples(order)})") from None
    try:
        return datetime.fromisoformat(text).date()
    except ValueError:
        raise ValueError(f"is not a date ({_examples(order)})") from None


def parse_instant(text: str, order: DateOrder) -> datetime:
    """A time: ISO 8601, in UTC where it names no zone; a mere date is its midnight in UTC."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return midnight(parse_date(text, order))
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def midnight(day: date) -> datetime:
    """The first moment of the day in UTC."""
    return datetime.combine(day, time(), UTC)


def parse_money(text: str) -> str:
    """An amount without currency signs and thousands separators: `$1,054.50` is `1054.50`."""
    amount = text.strip(CURRENCY_SIGNS)
    return amount.replace(",", "") if _GROUPED.fullmatch(amount) else amount


@lru_cache(CHOICES_REMEMBERED)
def parse_choice(text: str, choices: tuple[str, ...]) -> str:
    """One of the choices, whatever the case, spaces and punctuation: `On Hold` is `on_hold`."""
    wanted = normalised(text)
    for choice in choices:
        if normalised(choice) == wanted:
            return str(choice)
    raise ValueError(f"is none of {', '.join(choices)}")


def unescaped(text: str) -> str:
    """The cell without spaces around it and without the `'` that hides a formula."""
    return without_neutraliser(text.strip())


def _examples(order: DateOrder) -> str:
    others = {DateOrder.MDY: " or 12/31/2017", DateOrder.DMY: " or 31/12/2017"}
    return "2017-12-31" + others.get(order, "")
