"""Field types shared by the aggregates, and the base of their field models.

A field model says what a valid thing looks like *today*. It is consulted when a decision is made
and never when history is read: what was recorded stays readable when a rule is tightened.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from domain.shared.refusals import FieldError, InvalidFields

Json = str | int | float | bool | None | dict[str, Any] | list[Any]
FieldValues = dict[str, Any]
"""Fields by wire name, as JSON has them: dates and money as strings. Absent means not set."""

NAME_MAX_CHARS = 200
LINE_MAX_CHARS = 1_000
TEXT_MAX_CHARS = 20_000
CUSTOM_FIELDS_MAX = 100
CUSTOM_KEY_MAX_CHARS = 100
CUSTOM_VALUE_MAX_CHARS = 2_000
MONEY_MAX_DIGITS = 18
DATE_FORMAT = "must be written like 2026-01-31, a time like 2026-01-31T12:00:00Z"
YEAR_MIN = 1900
YEAR_MAX = 2200


def _printable(text: str) -> str:
    """Refuse what PostgreSQL's JSON cannot hold (NUL, lone surrogates) and control characters."""
    for char in text:
        if (char < " " and char not in "\n\r\t") or "\ud800" <= char <= "\udfff":
            raise ValueError("contains a control character")
    return text


def _money(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.01")) + 0  # there is no minus nothing


def _written_out(when: object) -> object:
    """Refuse numbers, which pydantic takes for seconds since 1970, in quotes or not."""
    if isinstance(when, date) or (isinstance(when, str) and when[4:5] == "-"):
        return when
    raise PydanticCustomError("date_format", DATE_FORMAT)


def _sensible_year(when: date) -> date:
    if not YEAR_MIN <= when.year <= YEAR_MAX:
        raise ValueError(f"the year must lie between {YEAR_MIN} and {YEAR_MAX}")
    return when


def _in_utc(when: datetime) -> datetime:
    return when.astimezone(UTC)


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_MAX_CHARS),
    AfterValidator(_printable),
]
Line = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=LINE_MAX_CHARS),
    AfterValidator(_printable),
]
Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=TEXT_MAX_CHARS),
    AfterValidator(_printable),
]
Email = Annotated[EmailStr, Field(max_length=254)]
Phone = Annotated[
    str, StringConstraints(strip_whitespace=True, pattern=r"^\+?[0-9().\-/ x#*]{3,40}$")
]
Money = Annotated[
    Decimal,
    Field(ge=0, max_digits=MONEY_MAX_DIGITS, decimal_places=2, allow_inf_nan=False),
    AfterValidator(_money),
    PlainSerializer(str),
]
"""An amount of the workspace's currency, not negative, with two decimals; a string on the wire."""
Date = Annotated[date, BeforeValidator(_written_out), AfterValidator(_sensible_year)]
Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_written_out),
    AfterValidator(_sensible_year),
    AfterValidator(_in_utc),
    PlainSerializer(datetime.isoformat, return_type=str),
]
"""A point in time; one form for each, so that the same instant in another zone is no change."""

CustomKey = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=CUSTOM_KEY_MAX_CHARS),
    AfterValidator(_printable),
]
CUSTOM_INTEGER_MAX = 2**53


def _scalar(value: object) -> str | bool | int | float:
    """A custom field holds text, a number or a boolean; integers that JSON carries safely."""
    if isinstance(value, str):
        if len(value) > CUSTOM_VALUE_MAX_CHARS:
            raise ValueError(f"must have at most {CUSTOM_VALUE_MAX_CHARS} characters")
        return _printable(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= CUSTOM_INTEGER_MAX:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError("must be text, a number or a boolean")


CustomValue = Annotated[
    str | bool | int | float,
    PlainValidator(_scalar),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]}),
]
CustomFields = Annotated[
    dict[CustomKey, CustomValue],
    Field(max_length=CUSTOM_FIELDS_MAX),
]
CUSTOM = "customFields"
READ_ONLY: dict[str, Any] = {"readOnly": True}
"""What the schema says of a field that only commands set."""
SET_BY_COMMAND = "set_by_command"
"""The kind of fault where a field is given that only commands set."""


class CheckedValues(dict[str, Any]):
    """FieldValues that one field model has found valid and made canonical; not to be changed.

    Whoever has to look at many before deciding on them (an import) need not have each checked again
    by the decision.
    """

    def __init__(self, model: type[Fields], facts: FieldValues) -> None:
        super().__init__(facts)
        self.model = model


class Fields(BaseModel):
    """The editable fields of one kind of thing. Unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=False
    )

    SET_BY_COMMAND: ClassVar[frozenset[str]] = frozenset()
    """Fields (attributes) that say what commands did, and that nobody sets by hand."""

    assigned_to: UUID | None = None
    custom_fields: CustomFields = Field(
        default_factory=dict,
        description="A flat map of your own fields; values are text, numbers or booleans.",
        examples=[{"sector": "technology"}],
    )

    @classmethod
    def wire_names(cls) -> list[str]:
        """The names of all fields as JSON has them, in the order of declaration."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @classmethod
    def values(cls, given: Mapping[str, Any]) -> FieldValues:
        """The given fields, validated and in canonical JSON form; those without a value left out.

        Raises `InvalidFields`, naming every fault at once.
        """
        if isinstance(given, CheckedValues) and given.model is cls:
            return dict(given)
        try:
            return cls.model_validate(given).as_values()
        except ValidationError as error:
            raise InvalidFields(field_errors(error)) from None

    @classmethod
    def checked(cls, given: Mapping[str, Any]) -> CheckedValues:
        """The same, so that a decision need not check them again. Raises `InvalidFields`."""
        return CheckedValues(cls, cls.values(given))

    @classmethod
    def kept(cls) -> frozenset[str]:
        """The fields that only commands set, by wire name."""
        return frozenset(str(cls.model_fields[name].alias) for name in cls.SET_BY_COMMAND)

    @staticmethod
    def reject_read_only(wire_names: Iterable[str], kept: Collection[str]) -> None:
        """Raises `InvalidFields` for those of the fields that are kept from being set by hand."""
        faults = [
            FieldError(name, SET_BY_COMMAND, "is set by a command of its own and not by hand")
            for name in wire_names
            if name in kept
        ]
        if faults:
            raise InvalidFields(faults)

    def as_values(self) -> FieldValues:
        """These fields in canonical JSON form, without those that have no value."""
        facts = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        if not facts.get(CUSTOM, True):
            del facts[CUSTOM]
        return facts


def field_errors(error: ValidationError) -> list[FieldError]:
    """What pydantic found, by wire path, without echoing the input back."""
    return [
        FieldError(
            field=".".join(str(part) for part in fault["loc"]) or "body",
            kind=fault["type"],
            message=fault["msg"].removeprefix("Value error, "),
        )
        for fault in error.errors(include_url=False, include_input=False, include_context=False)
    ]
