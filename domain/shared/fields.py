"""Field types shared by the aggregates, and the base of their field models.

A field model defines which values are valid *today*. Decisions consult it; reading history never
does, so that recorded values stay readable when a rule is tightened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any
from uuid import UUID

from email_validator import SPECIAL_USE_DOMAIN_NAMES
from email_validator.rfc_constants import CASE_INSENSITIVE_MAILBOX_NAMES
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    Field,
    GetPydanticSchema,
    PlainSerializer,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import no_info_plain_validator_function

from domain.shared.refusals import FieldError, InvalidFields
from domain.shared.text import composed

FieldValues = dict[str, Any]
"""Values by the wire name of their field, in JSON form: dates and money are strings.

A field without a value is absent.
"""

NAME_MAX_CHARS = 200
LINE_MAX_CHARS = 1_000
TEXT_MAX_CHARS = 20_000
CUSTOM_FIELDS_MAX = 100
CUSTOM_KEY_MAX_CHARS = 100
CUSTOM_VALUE_MAX_CHARS = 2_000
CUSTOM_INTEGER_MAX = 2**53
MONEY_MAX_DIGITS = 18
MONEY_PATTERN = rf"^[0-9]{{1,{MONEY_MAX_DIGITS - 2}}}(\.[0-9]{{1,2}})?$"
DATE_FORMAT = "must be written like 2026-01-31, a time like 2026-01-31T12:00:00Z"
YEAR_MIN = 1900
YEAR_MAX = 2200


_UNPRINTABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")


def _printable(text: str) -> str:
    """The text in normal form C, so that equal texts are recorded equally.

    Refuses control characters and what PostgreSQL's JSON cannot hold (NUL, lone surrogates).
    """
    if text.isascii() and text.isprintable():
        return text  # 0.2 µs sooner, and an import has many texts
    if _UNPRINTABLE.search(text):
        raise ValueError("contains a control character")
    return text if text.isascii() else composed(text)


def _money(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.01")) + 0  # -0.00 becomes 0.00


def _not_a_number(when: object) -> object:
    """Refuse numbers and strings of digits, which pydantic reads as seconds since 1970."""
    if isinstance(when, date) or (isinstance(when, str) and when[4:5] == "-"):
        return when
    raise PydanticCustomError("date_format", DATE_FORMAT)


def _sensible_year(when: date) -> date:
    if not YEAR_MIN <= when.year <= YEAR_MAX:
        raise ValueError(f"the year must lie between {YEAR_MIN} and {YEAR_MAX}")
    return when


def _in_utc(when: datetime) -> datetime:
    return when.astimezone(UTC)


MESSAGES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("uuid_type", "uuid_parsing"), "Input should be a UUID"),
        **dict.fromkeys(("dict_type", "model_type"), "Input should be an object"),
        "list_type": "Input should be an array",
        "decimal_type": "Input should be a number, or text with one",
    }
)
"""Messages that replace those of pydantic, which name types of Python, by the kind of fault."""
_SIZED = re.compile("^(List|Dictionary)(?= should have)")
_WORDINGS = {
    "Value error, ": "",
    " after validation": "",
    "should be True": "should be true",
    "Decimal input": "Input",
}
_FAULTY = "wireName"
_KEY = "[key]"
"""The end of the path to a name, as opposed to the value of that name."""


_USUAL_EMAIL = re.compile(
    r"(?P<local>(?=[^@]{1,64}@)[a-zA-Z0-9_%+-]+(?:\.[a-zA-Z0-9_%+-]+)*)"
    r"@(?:(?=[^.]{1,63}\.)[a-z0-9]+(?:-[a-z0-9]+)*\.)+(?P<top>[a-z]{2,24})"
)
"""Addresses that the library accepts and leaves as they are, unless a name in them is special."""
_EMAIL_MAX_CHARS = 254
_SPECIAL_TOP_DOMAINS = frozenset(name.rpartition(".")[2] for name in SPECIAL_USE_DOMAIN_NAMES)
_SPECIAL_MAILBOXES = frozenset(CASE_INSENSITIVE_MAILBOX_NAMES)


def _email(given: object, validate: ValidatorFunctionWrapHandler) -> object:
    """The address in normal form. The library decides about any that is not a usual one.

    It takes 24 µs for an address and the pattern 1 µs, which is a quarter of an import of contacts.
    """
    if isinstance(given, str) and len(given) <= _EMAIL_MAX_CHARS:
        usual = _USUAL_EMAIL.fullmatch(given)
        if (
            usual
            and usual["top"] not in _SPECIAL_TOP_DOMAINS
            and usual["local"].lower() not in _SPECIAL_MAILBOXES
        ):
            return given
    return validate(given)


class Choice(StrEnum):
    """Base of the enumerations of fields. A value may be written in any case: `High` is `high`."""

    @classmethod
    def _missing_(cls, value: object) -> Choice | None:
        lower = value.strip().lower() if isinstance(value, str) else None
        return next((each for each in cls if each.value == lower), None)


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
Email = Annotated[
    EmailStr,
    WrapValidator(_email),
    Field(max_length=_EMAIL_MAX_CHARS),
    # Letters of all alphabets are accepted (RFC 6531).
    WithJsonSchema({"type": "string", "format": "idn-email", "maxLength": _EMAIL_MAX_CHARS}),
]
Phone = Annotated[
    str, StringConstraints(strip_whitespace=True, pattern=r"^\+?[0-9().\-/ x#*]{3,40}$")
]
Money = Annotated[
    Decimal,
    Field(ge=0, max_digits=MONEY_MAX_DIGITS, decimal_places=2, allow_inf_nan=False),
    AfterValidator(_money),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": MONEY_PATTERN},
                {"type": "number", "minimum": 0, "maximum": 10**13, "multipleOf": 0.01},
            ]
        },
        mode="validation",
    ),
    WithJsonSchema({"type": "string", "pattern": MONEY_PATTERN}, mode="serialization"),
]
"""An amount of at least 0 with two decimals and without a currency; a string on the wire."""
Date = Annotated[date, BeforeValidator(_not_a_number), AfterValidator(_sensible_year)]
Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_not_a_number),
    AfterValidator(_sensible_year),
    AfterValidator(_in_utc),
    PlainSerializer(datetime.isoformat, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
"""A point in time, converted to UTC, so that another zone for the same instant is no change."""

CustomKey = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=CUSTOM_KEY_MAX_CHARS),
    AfterValidator(_printable),
]


def _scalar(value: object) -> str | bool | int | float:
    """Accept text, numbers and booleans; integers up to 2^53, which JSON carries exactly."""
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
    # PlainValidator would call Python again for each value that is written.
    GetPydanticSchema(lambda _type, _handler: no_info_plain_validator_function(_scalar)),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]}),
]
CustomFields = Annotated[
    dict[CustomKey, CustomValue],
    Field(max_length=CUSTOM_FIELDS_MAX),
]
CUSTOM = "customFields"
READ_ONLY: dict[str, Any] = {"readOnly": True}
"""JSON schema of a field that only commands set: no client and no import may give it."""
SET_BY_COMMAND_FAULT = "set_by_command"
"""The kind of fault when a read-only field is given."""


class PrevalidatedValues(dict[str, Any]):
    """Values that one field model has already validated; must not be modified.

    An import validates many rows before it decides, and its decisions skip the validation.
    """

    def __init__(self, model: type[Fields], values: FieldValues) -> None:
        super().__init__(values)
        self.model = model


class Fields(BaseModel):
    """The fields of one kind of entity. Unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=False
    )

    assigned_to: UUID | None = None
    custom_fields: CustomFields = Field(
        default_factory=dict,
        description="A flat map of your own fields; values are text, numbers or booleans.",
        examples=[{"sector": "technology"}],
    )

    @classmethod
    @cache
    def wire_names(cls) -> tuple[str, ...]:
        """The names of all fields in JSON, in the order of declaration."""
        return tuple(field.alias or name for name, field in cls.model_fields.items())

    @classmethod
    def validated(cls, given: Mapping[str, Any]) -> FieldValues:
        """The given fields, validated and in canonical JSON form, without those that have no value.

        Raises `InvalidFields` with every fault.
        """
        if isinstance(given, PrevalidatedValues) and given.model is cls:
            return dict(given)
        try:
            return cls.model_validate(given).as_values()
        except ValidationError as error:
            raise InvalidFields(field_errors(error)) from None

    @classmethod
    def prevalidated(cls, given: Mapping[str, Any]) -> PrevalidatedValues:
        """As `validated`, for several decisions on the same values. Raises `InvalidFields`."""
        return PrevalidatedValues(cls, cls.validated(given))

    @classmethod
    def canonical(cls, given: Mapping[str, Any]) -> FieldValues:
        """As `validated`, without the check for missing fields. Raises pydantic's error."""
        adapters = cls._adapters()
        return {
            name: adapters[name].dump_python(adapters[name].validate_python(value), mode="json")
            for name, value in given.items()
        }

    @classmethod
    @cache
    def _adapters(cls) -> Mapping[str, TypeAdapter[Any]]:
        def adapter(info: FieldInfo) -> TypeAdapter[Any]:
            annotated: Any = Annotated
            type_: Any = info.annotation
            return TypeAdapter(annotated[(type_, *info.metadata)] if info.metadata else type_)

        return {str(info.alias): adapter(info) for info in cls.model_fields.values()}

    @classmethod
    @cache
    def read_only(cls) -> frozenset[str]:
        """The fields that only commands set, by wire name: those declared with `READ_ONLY`."""
        return frozenset(
            field.alias or name
            for name, field in cls.model_fields.items()
            if field.json_schema_extra is READ_ONLY
        )

    @staticmethod
    def reject_read_only(wire_names: Iterable[str], read_only: Collection[str]) -> None:
        """Raise `InvalidFields` for each of the names that is read-only."""
        faults = [
            FieldError(name, SET_BY_COMMAND_FAULT, "can only be set by a command")
            for name in wire_names
            if name in read_only
        ]
        if faults:
            raise InvalidFields(faults)

    def as_values(self) -> FieldValues:
        """These fields in canonical JSON form, without those that have no value."""
        values = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        if not values.get(CUSTOM, True):
            del values[CUSTOM]
        return values


def field_errors(error: ValidationError) -> list[FieldError]:
    """The faults that pydantic found, by wire path. The input is not repeated in them."""
    return [field_error(fault) for fault in error.errors(include_url=False, include_input=False)]


def fault_of(wire_name: str, message: str) -> PydanticCustomError:
    """What a validator of a whole model raises if this one of its fields is at fault."""
    context = {_FAULTY: wire_name, "message": message}
    return PydanticCustomError("value_error", "{message}", context)


def field_error(fault: Mapping[str, Any]) -> FieldError:
    """A fault as pydantic reports it, by wire path and in terms of JSON instead of Python."""
    named = fault.get("ctx", {}).get(_FAULTY)
    path = [str(part) for part in (*fault["loc"], *([named] if named else [])) if part != _KEY]
    kind: str = fault["type"]
    message = MESSAGES.get(kind) or _SIZED.sub("Input", fault["msg"])
    for wording, wire in _WORDINGS.items():
        message = message.replace(wording, wire)
    return FieldError(".".join(path) or "body", kind, message)
