"""Query parameters: those of the lists, made from what each list can do, and times."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from uuid import UUID

from fastapi import FastAPI, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, create_model
from pydantic.alias_generators import to_camel, to_snake
from pydantic_core import CoreSchema, core_schema
from starlette.requests import HTTPConnection

from domain.shared.entity import Entity
from domain.shared.refusals import FieldError
from readmodels.lists import PAGE_MAX, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, SEARCH_MAX_CHARS
from readmodels.spec import ListSpec
from runtime import codes
from runtime.errors import ApiError

CURSOR_MAX_CHARS = 2_000
TIME_MAX_CHARS = 40
VERSION_MAX_DIGITS = 9
ALL = "all"
"""`type=all` is the same as no filter by type."""
START_OF_DAY = time(tzinfo=UTC)
END_OF_DAY = time(23, 59, 59, 999_999, tzinfo=UTC)

Names = Mapping[str, frozenset[str]]
AnySelection = TypeVar("AnySelection", bound="Selection")


def plain(text: str) -> str:
    """Refuse control characters, NUL before all, which PostgreSQL cannot take."""
    if not all(char.isprintable() for char in text):
        raise ValueError("contains a control character")
    return text


@dataclass(frozen=True)
class OneOf:
    """A text that is one of these, where they are known only once everything is imported."""

    values: tuple[str, ...]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> CoreSchema:
        """For pydantic: checked and described as an enumeration."""
        return core_schema.literal_schema(list(self.values))


Words = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=SEARCH_MAX_CHARS),
    AfterValidator(plain),
]
Cursor = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_\-=]+$", max_length=CURSOR_MAX_CHARS)
]
When = Annotated[str, StringConstraints(min_length=1, max_length=TIME_MAX_CHARS)]


class Selection(BaseModel):
    """Which rows of a list in which order: what its pages and its export have in common."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=False)

    FILTERS: ClassVar[tuple[str, ...]] = ()

    sort_by: str = "created_at"
    search: Words | None = Field(default=None, description="Part of a name, in any case.")
    sort_order: Literal["asc", "desc"] = "desc"

    def filters(self) -> dict[str, str]:
        """The filters asked for, by wire name, as text."""
        asked = {name: getattr(self, to_snake(name)) for name in self.FILTERS}
        return {
            name: str(value) for name, value in asked.items() if value is not None and value != ALL
        }


class ListParameters(Selection):
    """What every list understands; `list_parameters` adds what one kind of list has besides."""

    page: int = Field(default=1, ge=1, le=PAGE_MAX)
    page_size: int | None = Field(
        default=None,
        ge=1,
        description=f"{PAGE_SIZE_DEFAULT} if not given, {PAGE_SIZE_MAX} at the most.",
    )
    cursor: Cursor | None = Field(
        default=None,
        description="Where the page before ended (`nextCursor`): walks any length at equal speed.",
    )
    as_of: When | None = Field(
        default=None,
        description="The list as it was at a time (2026-03-31T12:00:00Z) or at the end of a day.",
    )


def list_parameters(kind: type[Entity], spec: ListSpec) -> type[ListParameters]:
    """The parameters of one list: filters, orders, and what may be included."""
    more: dict[str, Any] = {"include_stats": (bool, False)} if spec.stats else {}
    return selection_of(ListParameters, f"{kind.__name__}List", kind, spec, **more)


def selection_of(
    base: type[AnySelection], name: str, kind: type[Entity], spec: ListSpec, **more: Any
) -> type[AnySelection]:
    """The model with the filters and orders of one list, and what else is given."""
    fields: dict[str, Any] = {
        to_snake(each): (_filter_type(kind, each), None) for each in spec.filters
    }
    fields["sort_by"] = (Literal[tuple(spec.sorts)], "created_at")
    if spec.with_contacts:
        fields["include_contacts"] = (bool, True)
    model = create_model(name, __base__=base, **fields, **more)
    model.FILTERS = tuple(spec.filters)
    return model


def filter_model(kind: type[Entity], spec: ListSpec) -> type[BaseModel]:
    """The filters of one list as they stand in a body: search among them, nothing else."""
    fields: dict[str, Any] = {
        to_snake(name): (_filter_type(kind, name), None) for name in spec.filters
    }
    fields["search"] = (Words | None, None)
    config = ConfigDict(alias_generator=to_camel, populate_by_name=False, extra="forbid")
    return create_model(f"{kind.__name__}Filter", __config__=config, **fields)


def query_of(model: type[AnySelection]) -> Callable[..., Awaitable[AnySelection]]:
    """A dependency: the query parameters as this model has them."""

    async def parameters(query: AnySelection) -> AnySelection:
        return query

    # FastAPI reads the annotations, and a model made at runtime cannot be written into them.
    parameters.__annotations__["query"] = Annotated[model, Query()]
    return parameters


def page_size(request: Request, asked: int | None) -> int:
    """The page size, or the default of the settings. Raises 400 (E2031) above the maximum."""
    settings = request.app.state.settings
    if asked is None:
        return int(settings.page_size_default)
    if asked > settings.page_size_max:
        raise invalid_parameter("pageSize", f"at most {settings.page_size_max}")
    return asked


def parse_time(text: str, name: str = "asOf", *, end_of_day: bool = True) -> datetime:
    """A time, or the end (else the start) of a day in UTC. Raises 400 (E2031).

    A `+` that came unescaped, and so as a space, is understood.
    """
    text = re.sub(r"(?<=[0-9]) (?=[0-9]{2}:?[0-9]{2}$)", "+", text) if "T" in text else text
    try:
        if len(text) == len("2026-01-31"):
            at = END_OF_DAY if end_of_day else START_OF_DAY
            return datetime.combine(date.fromisoformat(text), at)
        when = datetime.fromisoformat(text)
    except ValueError:
        raise invalid_parameter(name, "a date or a time in ISO 8601 is expected") from None
    if when.tzinfo is None:
        raise invalid_parameter(name, "the time needs its zone, such as Z or +02:00")
    return when


def parse_version_or_time(text: str) -> int | datetime:
    """A version or a time. Raises 400 (E2031)."""
    if text.isascii() and text.isdecimal() and 0 < len(text) <= VERSION_MAX_DIGITS:
        return int(text)
    return parse_time(text)


def invalid_parameter(name: str, message: str) -> ApiError:
    """E2031 for one parameter."""
    return ApiError(
        codes.INVALID_PARAMETER,
        f"{name}: {message}",
        errors=[FieldError(name, "value_error", message)],
    )


async def known_parameters(request: HTTPConnection) -> None:
    """A dependency: refuse parameters that the route does not have, or that come twice.

    What a route has is read from the API's own description. Raises 400 (E2030, E2031).
    """
    names: Names = request.app.state.query_parameters
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


def query_parameters(app: FastAPI) -> Names:
    """The query parameters of every operation, by operationId."""
    return {
        operation["operationId"]: frozenset(
            each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"
        )
        for methods in app.openapi()["paths"].values()
        for operation in methods.values()
    }


def _filter_type(kind: type[Entity], name: str) -> Any:
    field = kind.FIELDS.model_fields.get(to_snake(name))
    if name in ("assignedTo", "accountId") or field is None:
        return UUID | None
    values: Any = field.annotation
    return values | Literal["all"] | None if name == "type" else values | None
