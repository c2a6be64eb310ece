"""Models for the description: problems, and the shapes of an entity in requests and responses."""

from __future__ import annotations

import inspect
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel, to_snake

from api.http.openapi.bodies import add_body_model
from domain.shared.entity import Entity
from readmodels.spec import ListSpec


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
    request_id: str
    errors: list[FieldProblem] = []


add_body_model(Problem)


class Pagination(BaseModel):
    """The position of this page in the list."""

    model_config = ConfigDict(alias_generator=to_camel)

    page: int
    page_size: int
    total_items: int
    total_pages: int
    next_cursor: str | None


def create_body(kind: type[Entity]) -> type[BaseModel]:
    """Return the body that creates an entity: its fields, and `accountId` if the kind has one."""
    extra: dict[str, Any] = {}
    if kind.BELONGS_TO_ACCOUNT:
        required = kind.ACCOUNT_REQUIRED
        extra["account_id"] = (UUID, ...) if required else (UUID | None, None)
    return create_model(
        f"{kind.__name__}Create",
        __base__=kind.FIELDS,
        __doc__=f"The fields of a new {kind.KIND}.",
        **extra,
    )


def change_body(kind: type[Entity]) -> type[BaseModel]:
    """Return a merge patch: every field is optional, and null unsets it."""
    fields: dict[str, Any] = {
        name: (field.annotation | None, None)  # type: ignore[operator]
        for name, field in kind.FIELDS.model_fields.items()
    }
    config = ConfigDict(alias_generator=to_camel, extra="forbid")
    doc = f"The fields of a {kind.KIND} to change; null unsets a field."
    return create_model(f"{kind.__name__}Change", __config__=config, __doc__=doc, **fields)


def entity_model(kind: type[Entity]) -> type[BaseModel]:
    """Return an entity as responses to writes show it."""
    extra: dict[str, Any] = {"account_id": (UUID | None, None)} if kind.BELONGS_TO_ACCOUNT else {}
    if kind.HAS_STATUS_DATE:
        extra["status_changed_at"] = (datetime, ...)
    return create_model(
        kind.__name__,
        __base__=kind.FIELDS,
        __doc__=inspect.cleandoc(kind.__doc__ or "").partition("\n\nDecisions")[0],
        id=(UUID, ...),
        **extra,
        created_at=(datetime, ...),
        updated_at=(datetime, ...),
        version=(int, Field(ge=1)),
    )


def item_model(model: type[BaseModel], kind: type[Entity], spec: ListSpec) -> type[BaseModel]:
    """Return an entity as lists and reads show it: with names of others and counts."""
    known = set(model.model_fields)
    shown = [name for name in map(to_snake, spec.items) if name not in known]
    extra: dict[str, Any] = {
        name: (int, ...) if name.endswith("_count") else (str | None, None) for name in shown
    }
    if spec.with_contacts:
        extra["contacts"] = (list[dict[str, Any]], [])
    if spec.plural == "accounts":
        extra["opportunities"] = (list[dict[str, Any]], [])
    return create_model(f"{kind.__name__}Item", __base__=model, **extra)


def page_model(item: type[BaseModel], kind: type[Entity], spec: ListSpec) -> type[BaseModel]:
    """Return one page of a list."""
    items: Any = list.__class_getitem__(item)
    extra: dict[str, Any] = {"items": (items, ...), "pagination": (Pagination, ...)}
    if spec.stats:
        names: dict[str, Any] = {to_snake(name): (dict[str, Any], {}) for name in spec.stats}
        config = ConfigDict(alias_generator=to_camel)
        stats = create_model(f"{kind.__name__}Aggregations", __config__=config, **names)
        extra["aggregations"] = (stats | None, None)
    return create_model(f"{kind.__name__}Page", **extra)
