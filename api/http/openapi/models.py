"""Models for the description: problems, and the shapes of an entity in requests and responses."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model
from pydantic.alias_generators import to_camel, to_snake
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from api.http.openapi.bodies import add_body_model
from api.http.openapi.records import ResponseModel
from api.http.parameters import OneOf
from domain.appointment import DURATION_MAX_MINUTES, Appointment
from domain.shared.entity import Entity
from domain.shared.fields import READ_ONLY, CustomKey, CustomValue
from readmodels.spec import ListSpec
from runtime.patches import PATCH_OPERATIONS_MAX


class FieldProblem(BaseModel):
    """One field that is not valid."""

    field: str = Field(examples=["email"])
    code: str = Field(examples=["E2002"])
    message: str


class Problem(BaseModel):
    """A problem document (RFC 9457) with an error code; further members carry details."""

    model_config = ConfigDict(alias_generator=to_camel, extra="allow")

    type: str = Field(examples=["/api/errors/E2001"])
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path of the request.")
    code: str = Field(examples=["E2001"])
    error_code: str | None = Field(
        default=None,
        description="The code, if `code` has a name that older clients know.",
        examples=["E4011"],
    )
    request_id: str
    errors: list[FieldProblem] = []
    errors_total: int | None = Field(
        default=None, description="How many errors there are, if `errors` has fewer of them."
    )


class JsonPatchAddition(BaseModel):
    """An operation with a value."""

    model_config = ConfigDict(extra="allow")

    op: Literal["add", "replace", "test"]
    path: str = Field(description="A JSON Pointer (RFC 6901).", examples=["/nextAction"])
    value: Any


class JsonPatchRemoval(BaseModel):
    """An operation that removes a value."""

    model_config = ConfigDict(extra="allow")

    op: Literal["remove"]
    path: str = Field(description="A JSON Pointer (RFC 6901).", examples=["/nextAction"])


class JsonPatchMove(BaseModel):
    """An operation that takes its value from another place."""

    model_config = ConfigDict(extra="allow")

    op: Literal["move", "copy"]
    from_: str = Field(alias="from", description="A JSON Pointer (RFC 6901).")
    path: str = Field(description="A JSON Pointer (RFC 6901).")


def _as_all_of(schema: dict[str, Any]) -> None:
    """Describe an array by `allOf`, which means the same.

    openapi-python-client 0.29 distinguishes the bodies of a request by `isinstance`, which no
    `list[…]` allows: every change of an entity would fail in a generated client.
    """
    array = {name: schema.pop(name) for name in ("type", "items", "maxItems")}
    schema["allOf"] = [array]


class JsonPatch(
    RootModel[
        Annotated[
            list[JsonPatchAddition | JsonPatchRemoval | JsonPatchMove],
            Field(max_length=PATCH_OPERATIONS_MAX),
        ]
    ]
):
    """A JSON Patch (RFC 6902)."""

    model_config = ConfigDict(json_schema_extra=_as_all_of)


add_body_model(Problem)


class Pagination(ResponseModel):
    """The position of this page in the list."""

    page: int
    page_size: int
    total_items: int
    total_is_exact: bool = Field(
        description="False for a search that finds more than `totalItems`. The pages after"
        " `totalPages` are then reached by `nextCursor`."
    )
    total_pages: int
    next_cursor: str | None


REQUEST = ConfigDict(alias_generator=to_camel, extra="forbid")
DURATION_OR_END: Mapping[str, Any] = MappingProxyType(
    {"if": {"not": {"required": ["endsAt"]}}, "then": {"required": ["durationMinutes"]}}
)
"""JSON schema of an appointment that ends: it has one of the two."""


class AccountContact(ResponseModel):
    """A contact, as its account shows it."""

    id: UUID
    name: str
    email: str | None
    phone: str | None
    title: str | None
    version: int


class AccountOpportunity(ResponseModel):
    """An opportunity, as its account shows it."""

    id: UUID
    name: str
    stage: str
    value: str | None
    version: int


class StageTotal(ResponseModel):
    """The opportunities in one stage."""

    count: int
    value: str | None = Field(description="The sum of their values.")


def create_body(kind: type[Entity]) -> type[BaseModel]:
    """Return the body that creates an entity: its fields, and `accountId` if the kind has one."""
    fields = {
        name: _required(field) if field.is_required() else _optional(field, _default(field))
        for name, field in _writable(kind)
    }
    if kind.STATUSES_OF_COMMANDS:
        name = to_snake(str(kind.STATUS_FIELD))
        fields[name] = _initial_status(kind, kind.FIELDS.model_fields[name])
    if kind.BELONGS_TO_ACCOUNT:
        fields["account_id"] = (UUID, ...) if kind.ACCOUNT_REQUIRED else (UUID | None, None)
    config = REQUEST
    if kind is Appointment:
        fields |= _duration_or_end(kind)
        config = REQUEST | ConfigDict(json_schema_extra=dict(DURATION_OR_END))
    return create_model(
        f"{kind.__name__}Create",
        __config__=config,
        __doc__=f"The fields of a new {kind.KIND}.",
        **fields,
    )


def change_body(kind: type[Entity]) -> type[BaseModel]:
    """Return a merge patch: every field may be left out, and null unsets it if it may be unset."""
    fields = {
        name: _present(field) if field.is_required() else _optional(field, None)
        for name, field in _writable(kind)
    }
    of_keys = Field(default=None, description="By key; null removes one.")
    fields["custom_fields"] = (dict[CustomKey, CustomValue | None] | None, of_keys)
    if kind is Appointment:
        fields |= _duration_or_end(kind)
    return create_model(
        f"{kind.__name__}Change",
        __config__=REQUEST,
        __doc__=f"The fields of {_with_article(kind)} to change; null unsets a field.",
        **fields,
    )


@cache
def entity_model(kind: type[Entity]) -> type[BaseModel]:
    """Return an entity as responses to writes show it. A field without a value is null."""
    extra: dict[str, Any] = {"account_id": (UUID | None, ...)} if kind.BELONGS_TO_ACCOUNT else {}
    if kind.HAS_STATUS_DATE:
        extra["status_changed_at"] = (datetime, ...)
    return create_model(
        kind.__name__,
        __base__=ResponseModel,
        __doc__=inspect.cleandoc(kind.__doc__ or "").partition("\n\nDecisions")[0],
        id=(UUID, ...),
        **extra,
        **{name: _required(field) for name, field in kind.FIELDS.model_fields.items()},
        created_at=(datetime, ...),
        updated_at=(datetime, ...),
        version=(int, Field(ge=1)),
    )


def item_model(model: type[BaseModel], kind: type[Entity], spec: ListSpec) -> type[BaseModel]:
    """Return an entity as lists and reads show it: with names of others and counts.

    They are absent from reads as of a time, as are the contacts if they are not asked for.
    """
    known = set(model.model_fields)
    shown = [name for name in map(to_snake, spec.items) if name not in known]
    extra: dict[str, Any] = {
        name: (int, 0) if name.endswith("_count") else (str | None, None) for name in shown
    }
    if spec.with_contacts:
        extra["contacts"] = (list[AccountContact], [])
    if spec.plural == "accounts":
        extra["opportunities"] = (list[AccountOpportunity], [])
    return create_model(f"{kind.__name__}Item", __base__=model, **extra)


def page_model(item: type[BaseModel], kind: type[Entity], spec: ListSpec) -> type[BaseModel]:
    """Return one page of a list."""
    items: Any = list.__class_getitem__(item)
    extra: dict[str, Any] = {"items": (items, ...), "pagination": (Pagination, ...)}
    if spec.stats:
        of_stage = dict[str, StageTotal]
        names: dict[str, Any] = {
            to_snake(name): (of_stage if name == "byStage" else dict[str, int], ...)
            for name in spec.stats
        }
        stats = create_model(f"{kind.__name__}Aggregations", __base__=ResponseModel, **names)
        described = Field(default=None, description="With `includeStats`.")
        extra["aggregations"] = (stats | None, described)
    return create_model(f"{kind.__name__}Page", __base__=ResponseModel, **extra)


def _writable(kind: type[Entity]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the fields that clients may give."""
    for name, field in kind.FIELDS.model_fields.items():
        if field.json_schema_extra is not READ_ONLY:
            yield name, field


def _required(field: FieldInfo) -> Any:
    """Return the field with its description, but without a default."""
    described = Field(description=field.description, examples=field.examples)
    return (_annotation(field), described)


def _default(field: FieldInfo) -> Any:
    """Return the default of the field; None if a function makes it."""
    return None if field.default is PydanticUndefined else field.default


def _optional(field: FieldInfo, default: Any) -> Any:
    """Return the field with its description; null is accepted, and stands for no value."""
    described = Field(default, description=field.description, examples=field.examples)
    return (_annotation(field) | None, described)


def _present(field: FieldInfo) -> Any:
    """Return the field, which may be left out but not be null."""
    return (_annotation(field), Field(None, description=field.description, examples=field.examples))


def _initial_status(kind: type[Entity], field: FieldInfo) -> Any:
    """Return the field with the statuses that no command has to set."""
    values = [
        each.value for each in field.annotation or () if each not in kind.STATUSES_OF_COMMANDS
    ]
    _, described = _optional(field, _default(field))
    return (Annotated[str, OneOf(tuple(values))] | None, described)


def _annotation(field: FieldInfo) -> Any:
    """Return the type of the field with its constraints."""
    if not field.metadata:
        return field.annotation
    return Annotated.__class_getitem__((field.annotation, *field.metadata))  # type: ignore[attr-defined]


def _duration_or_end(kind: type[Entity]) -> dict[str, Any]:
    duration = Annotated[int, Field(ge=1, le=DURATION_MAX_MINUTES)]
    described = Field(None, description="In place of `endsAt`.")
    return {
        "ends_at": _present(kind.FIELDS.model_fields["ends_at"]),
        "duration_minutes": (duration, described),
    }


def _with_article(kind: type[Entity]) -> str:
    return ("an " if kind.KIND[0] in "aeiou" else "a ") + kind.KIND
