"""Query parameters: models for lists, generated from each list's definition, and times."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from uuid import UUID

from fastapi import Query, Request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
    create_model,
)
from pydantic.alias_generators import to_camel, to_snake
from pydantic_core import CoreSchema, core_schema
from starlette.requests import HTTPConnection

from domain.shared.entity import Entity
from domain.shared.kinds import by_either_number
from domain.shared.refusals import FieldError
from readmodels.lists import PAGE_MAX, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, SEARCH_MAX_CHARS
from readmodels.spec import ListSpec
from replay.span import DAY_CHARS
from replay.span import end_of_day as last_moment
from runtime import codes
from runtime.errors import ApiError

CURSOR_MAX_CHARS = 2_000
TIME_MAX_CHARS = 40
VERSION_MAX_DIGITS = 9
ALL = "all"
"""`type=all` means no filter by type."""
START_OF_DAY = time(tzinfo=UTC)

AnySelection = TypeVar("AnySelection", bound="Selection")


def reject_control_characters(text: str) -> str:
    """Raise `ValueError` for control characters; PostgreSQL cannot store NUL."""
    if not all(char.isprintable() for char in text):
        raise ValueError("contains a control character")
    return text


@dataclass(frozen=True)
class OneOf:
    """Annotation of a string that has one of these values, which are known only at runtime."""

    values: tuple[str, ...]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> CoreSchema:
        """Have pydantic validate and describe it as an enumeration."""
        return core_schema.literal_schema([str(each) for each in self.values])


@dataclass(frozen=True)
class OneOfKinds:
    """Annotation of the name of one of these kinds, in the singular or the plural.

    It is parsed as the form that `values` has.
    """

    values: tuple[str, ...]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> CoreSchema:
        """Have pydantic validate and describe it as an enumeration."""
        forms = by_either_number(self.values)

        def value_of(given: object) -> object:
            return forms.get(given, given) if isinstance(given, str) else given

        literal = core_schema.literal_schema(list(self.values))
        return core_schema.no_info_before_validator_function(value_of, literal)

    def __get_pydantic_json_schema__(self, _core: Any, _handler: Any) -> dict[str, Any]:
        """Describe it as an enumeration of both forms."""
        return {"type": "string", "enum": sorted(by_either_number(self.values))}


SearchText = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=SEARCH_MAX_CHARS),
    AfterValidator(reject_control_characters),
]
Cursor = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_\-=]+$", max_length=CURSOR_MAX_CHARS)
]
_DAY_OR_TIME: list[JsonValue] = [
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
]
TimeText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=TIME_MAX_CHARS),
    WithJsonSchema({"anyOf": _DAY_OR_TIME}),
]
_VERSION: JsonValue = {"type": "integer", "minimum": 1, "maximum": 10**VERSION_MAX_DIGITS - 1}
VersionOrTimeText = Annotated[TimeText, WithJsonSchema({"anyOf": [_VERSION, *_DAY_OR_TIME]})]


class Selection(BaseModel):
    """Filters, search and order: what the pages of a list and its export have in common."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=False)

    FILTERS: ClassVar[Mapping[str, str]] = {}
    """The names of the filters, and of their attributes."""

    sort_by: str = "created_at"
    search: SearchText | None = Field(
        default=None, description="Part of a name; upper and lower case are the same."
    )
    sort_order: Literal["asc", "desc"] = "desc"

    def filters(self) -> dict[str, str]:
        """Return the filters that were given, by wire name, as text."""
        given = {name: getattr(self, attribute) for name, attribute in self.FILTERS.items()}
        return {
            name: str(value) for name, value in given.items() if value is not None and value != ALL
        }


class ListParameters(Selection):
    """The parameters of every list; `list_parameters` adds those of one kind."""

    page: int = Field(default=1, ge=1, le=PAGE_MAX)
    page_size: int | None = Field(
        default=None,
        ge=1,
        description=f"Items per page: {PAGE_SIZE_DEFAULT} by default, at most {PAGE_SIZE_MAX}.",
        json_schema_extra={"maximum": PAGE_SIZE_MAX},
    )
    cursor: Cursor | None = Field(
        default=None,
        description="`nextCursor` of the previous page. Every page takes the same time to read.",
    )
    as_of: TimeText | None = Field(
        default=None,
        description="The list as it was at a time (2026-03-31T12:00:00Z) or at the end of a day.",
    )


def list_parameters(kind: type[Entity], spec: ListSpec) -> type[ListParameters]:
    """Return the parameters of the list of this kind: page, filters, orders and options."""
    more: dict[str, Any] = {"include_stats": (bool, False)} if spec.stats else {}
    return selection_model(ListParameters, f"{kind.__name__}List", kind, spec, **more)


def selection_model(
    base: type[AnySelection], name: str, kind: type[Entity], spec: ListSpec, **more: Any
) -> type[AnySelection]:
    """Return `base` with the filters and orders of one list, and with the fields in `more`."""
    fields: dict[str, Any] = {
        to_snake(each): (_filter_type(kind, each), None) for each in spec.filters
    }
    fields["sort_by"] = (Literal[tuple(spec.sorts)], "created_at")
    if spec.with_contacts:
        fields["include_contacts"] = (bool, True)
    model = create_model(name, __base__=base, **fields, **more)
    model.FILTERS = {name: to_snake(name) for name in spec.filters}
    return model


def filter_model(kind: type[Entity], spec: ListSpec) -> type[BaseModel]:
    """Return a model of a request body's filters: those of one list, and `search`."""
    fields: dict[str, Any] = {
        to_snake(name): (_filter_type(kind, name), None) for name in spec.filters
    }
    fields["search"] = (SearchText | None, None)
    config = ConfigDict(alias_generator=to_camel, populate_by_name=False, extra="forbid")
    return create_model(f"{kind.__name__}Filter", __config__=config, **fields)


def parse_query(model: type[AnySelection]) -> Callable[..., Awaitable[AnySelection]]:
    """Return a dependency: the query parameters, parsed by this model."""

    async def parameters(query: AnySelection) -> AnySelection:
        return query

    # FastAPI reads annotations; one with a model made at runtime cannot be written in the source.
    parameters.__annotations__["query"] = Annotated[model, Query()]
    return parameters


def page_size(request: Request, given: int | None) -> int:
    """Return the page size, by default that of the settings. Raises 400 (E2031) if too large."""
    settings = request.app.state.settings
    if given is None:
        return int(settings.page_size_default)
    if given > settings.page_size_max:
        raise invalid_parameter("pageSize", f"at most {settings.page_size_max}")
    return given


def parse_time(text: str, name: str = "asOf", *, end_of_day: bool = True) -> datetime:
    """Parse a time, returned in UTC, or a day in UTC as its end (or start). Raises 400 (E2031).

    Accepts a space in place of the `+` of a zone: an unescaped `+` arrives as a space.
    """
    text = re.sub(r"(?<=[0-9]) (?=[0-9]{2}:?[0-9]{2}$)", "+", text) if "T" in text else text
    try:
        if len(text) == DAY_CHARS:
            day = date.fromisoformat(text)
            return last_moment(day) if end_of_day else datetime.combine(day, START_OF_DAY)
        when = datetime.fromisoformat(text)
    except ValueError:
        raise invalid_parameter(name, "a date or a time in ISO 8601 is expected") from None
    if when.tzinfo is None:
        raise invalid_parameter(name, "the time needs a zone, such as Z or +02:00")
    try:
        # In UTC, because PostgreSQL refuses zones of 16 hours and more.
        return when.astimezone(UTC)
    except OverflowError:
        raise invalid_parameter(name, "the time is out of range") from None


def parse_version_or_time(text: str) -> int | datetime:
    """Parse a version or a time. Raises 400 (E2031)."""
    if text.isascii() and text.isdecimal() and 0 < len(text) <= VERSION_MAX_DIGITS:
        return int(text)
    return parse_time(text)


def invalid_parameter(name: str, message: str) -> ApiError:
    """Return a 400 (E2031) for one parameter."""
    return ApiError(
        codes.INVALID_PARAMETER,
        f"{name}: {message}",
        errors=[FieldError(name, "value_error", message)],
    )


async def reject_unknown_parameters(request: HTTPConnection) -> None:
    """Dependency: refuse query parameters that the route does not have or that occur twice.

    The parameters of each route are taken from the OpenAPI document. Raises 400 (E2030, E2031).
    """
    if not request.scope["query_string"]:
        return
    names: Mapping[str, frozenset[str]] = request.app.state.query_parameters
    allowed = names.get(getattr(request.scope["route"], "operation_id", None) or "")
    given = request.query_params.multi_items()
    if allowed is None or not given:
        return
    seen: set[str] = set()
    for name, _ in given:
        if name not in allowed:
            shown = name[:TIME_MAX_CHARS]
            raise ApiError(codes.UNKNOWN_PARAMETER, parameter=shown, known=sorted(allowed))
        if name in seen:
            raise invalid_parameter(name, "is given twice")
        seen.add(name)


def _filter_type(kind: type[Entity], name: str) -> Any:
    field = kind.FIELDS.model_fields.get(to_snake(name))
    if name in ("assignedTo", "accountId") or field is None:
        return UUID | None
    values: Any = field.annotation
    if name != "type":
        return values | None
    return Annotated[str, OneOf((*values, ALL)), BeforeValidator(_lowered)] | None


def _lowered(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value
