"""How the API describes itself: models, examples and possible errors for OpenAPI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel, to_snake
from pydantic.json_schema import models_json_schema

from api.http.problems import PROBLEM
from domain.shared.entity import Entity
from readmodels.spec import ListSpec
from runtime import codes
from runtime.codes.code import ErrorCode

REF = "#/components/schemas/{model}"
EXAMPLE_ID = "0199c0de-0000-7000-8000-000000000001"
EXAMPLE_TIME = "2026-01-31T12:00:00+00:00"

ALWAYS = (
    codes.NO_CREDENTIALS,
    codes.MALFORMED_CREDENTIALS,
    codes.UNKNOWN_KEY,
    codes.KEY_EXPIRED,
    codes.MEMBER_LEFT,
    codes.FORBIDDEN,
    codes.UNKNOWN_PARAMETER,
    codes.INVALID_PARAMETER,
    codes.DATABASE_UNREACHABLE,
    codes.DATABASE_BUSY,
    codes.STORED_DATA_UNUSABLE,
    codes.TIMED_OUT,
    codes.UNEXPECTED,
)
"""What every route that asks for a key can answer."""

ON_READ = (codes.INVALID_MIN_POSITION, codes.NOT_YET_PROJECTED)
ON_WRITE = (
    codes.WRITE_CONTENTION,
    codes.INVALID_IDEMPOTENCY_KEY,
    codes.IDEMPOTENCY_KEY_REUSED,
    codes.IDEMPOTENCY_KEY_IN_FLIGHT,
)
ON_VERSION = (codes.INVALID_IF_MATCH, codes.STALE_VERSION)
ON_BODY = (
    codes.MALFORMED_JSON,
    codes.NOT_UTF8,
    codes.DUPLICATE_KEY,
    codes.TOO_DEEP,
    codes.BODY_TOO_LARGE,
    codes.UNSUPPORTED_MEDIA_TYPE,
    codes.UNEXPECTED_SHAPE,
    codes.INEXACT_NUMBER,
    codes.BODY_TIMED_OUT,
)
ON_FIELDS = (
    codes.NAME_REQUIRED,
    codes.INVALID_EMAIL,
    codes.INVALID_FIELDS,
    codes.FIELD_REQUIRED,
    codes.UNKNOWN_FIELD,
    codes.NOT_AN_OPTION,
    codes.TOO_LONG,
    codes.INVALID_NUMBER,
    codes.INVALID_TIME,
    codes.INVALID_VALUE,
    codes.NOT_A_MEMBER,
    codes.REFERENCE_UNAVAILABLE,
    codes.SET_BY_COMMAND,
)
ON_PATCH = (codes.MALFORMED_PATCH, codes.PATCH_TEST_FAILED, codes.PATCH_NOT_APPLICABLE)

REQUEST_MODELS: list[type[BaseModel]] = []
"""Models of bodies that are validated by the domain, and so are unknown to the framework."""


class FieldProblem(BaseModel):
    """One field at fault."""

    field: str = Field(examples=["email"])
    code: str = Field(examples=["E2002"])
    message: str


class Problem(BaseModel):
    """RFC 9457, with a code of the dictionary; the facts of the case are further members."""

    model_config = ConfigDict(alias_generator=to_camel, extra="allow")

    type: str = Field(examples=["/api/errors/E2001"])
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path of the request.")
    code: str = Field(examples=["E2001"])
    request_id: str
    errors: list[FieldProblem] = []


REQUEST_MODELS.append(Problem)


class Pagination(BaseModel):
    """Where in the list this page lies."""

    model_config = ConfigDict(alias_generator=to_camel)

    page: int
    page_size: int
    total_items: int
    total_pages: int
    next_cursor: str | None


def problems(*possible: ErrorCode, always: Iterable[ErrorCode] = ALWAYS) -> dict[int | str, Any]:
    """The error responses of a route, one for each status, with an example for each code."""
    by_status: dict[int | str, list[ErrorCode]] = {}
    for code in sorted({*possible, *always}, key=lambda each: each.code):
        by_status.setdefault(code.status, []).append(code)
    return {status: _problem_response(found) for status, found in by_status.items()}


def headers(*names: str) -> dict[str, Any]:
    """Descriptions of response headers."""
    known = {
        "ETag": "The version, as a strong entity tag.",
        "Location": "Where the new thing is.",
        "Annals-Position": "The log position by which the write is recorded.",
        "Annals-Command": "The id of the command, by which all that it did can be undone.",
        "Idempotent-Replayed": "true where this is the first answer again; else not there.",
        "X-Request-Id": "The id of the request, in the log and in the events as well.",
    }
    of_writes = ("Annals-Command", "Idempotent-Replayed") if "Annals-Position" in names else ()
    shown = (*names, *of_writes, "X-Request-Id")
    return {name: {"description": known[name], "schema": {"type": "string"}} for name in shown}


def success(description: str, model: Any = None, *names: str, example: Any = None) -> Any:
    """A response that is no error."""
    response: dict[str, Any] = {"description": description, "headers": headers(*names)}
    if model is not None:
        response["model"] = model
    if example is not None:
        response["content"] = {"application/json": {"example": example}}
    return response


def body(contents: Mapping[str, tuple[type[BaseModel] | None, Any]]) -> dict[str, Any]:
    """The request body of a route: a model and an example for each media type."""
    content = {}
    for media_type, (model, example) in contents.items():
        schema: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
        if model is not None:
            if model not in REQUEST_MODELS:
                REQUEST_MODELS.append(model)
            schema = {"$ref": REF.format(model=model.__name__)}
        content[media_type] = {"schema": schema, "example": example}
    return {"requestBody": {"required": True, "content": content}}


def create_body(kind: type[Entity]) -> type[BaseModel]:
    """What creates one: its fields, and the account where it hangs on one."""
    extra: dict[str, Any] = {}
    if kind.BELONGS_TO_ACCOUNT:
        required = kind.ACCOUNT_REQUIRED
        extra["account_id"] = (UUID, ...) if required else (UUID | None, None)
    return create_model(
        f"{kind.__name__}Create",
        __base__=kind.FIELDS,
        __doc__=f"What a new {kind.KIND} is made of.",
        **extra,
    )


def change_body(kind: type[Entity]) -> type[BaseModel]:
    """A merge patch: any of the fields, null takes one away."""
    fields: dict[str, Any] = {
        name: (field.annotation | None, None)  # type: ignore[operator]
        for name, field in kind.FIELDS.model_fields.items()
    }
    config = ConfigDict(alias_generator=to_camel, extra="forbid")
    doc = f"Fields of a {kind.KIND} that are to change; null takes one away."
    return create_model(f"{kind.__name__}Change", __config__=config, __doc__=doc, **fields)


def entity_model(kind: type[Entity]) -> type[BaseModel]:
    """One of the kind, as answers to writes show it."""
    extra: dict[str, Any] = {"account_id": (UUID | None, None)} if kind.BELONGS_TO_ACCOUNT else {}
    if kind.HAS_STATUS_DATE:
        extra["status_changed_at"] = (datetime, ...)
    return create_model(
        kind.__name__,
        __base__=kind.FIELDS,
        __doc__=kind.__doc__,
        id=(UUID, ...),
        **extra,
        created_at=(datetime, ...),
        updated_at=(datetime, ...),
        version=(int, Field(ge=1)),
    )


def item_model(model: type[BaseModel], kind: type[Entity], spec: ListSpec) -> type[BaseModel]:
    """One of the kind, as lists and reads show it: with names and counts."""
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
    """One page of a list."""
    items: Any = list.__class_getitem__(item)
    extra: dict[str, Any] = {"items": (items, ...), "pagination": (Pagination, ...)}
    if spec.stats:
        names: dict[str, Any] = {to_snake(name): (dict[str, Any], {}) for name in spec.stats}
        config = ConfigDict(alias_generator=to_camel)
        stats = create_model(f"{kind.__name__}Aggregations", __config__=config, **names)
        extra["aggregations"] = (stats | None, None)
    return create_model(f"{kind.__name__}Page", **extra)


def describe(app: FastAPI) -> None:
    """Have the app's OpenAPI document hold the models of bodies and of problems as well."""
    made_by_framework = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made_by_framework()
            _, definitions = models_json_schema(
                [(model, "validation") for model in REQUEST_MODELS], ref_template=REF
            )
            schemas = document["components"]["schemas"]
            for name, schema in definitions["$defs"].items():
                schemas.setdefault(name, schema)
            _drop_framework_errors(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def methods_at(app: FastAPI, path: str) -> list[str]:
    """The methods that the API has at this path."""
    templates = app.openapi()["paths"]
    found = next((each for each in templates if _is_path_of(each, path)), None)
    return sorted(method.upper() for method in templates[found]) if found else []


def _is_path_of(template: str, path: str) -> bool:
    given, parts = path.split("/"), template.split("/")
    same = (part.startswith("{") or part == one for part, one in zip(parts, given, strict=False))
    return len(parts) == len(given) and all(same)


def _drop_framework_errors(document: dict[str, Any]) -> None:
    """The framework announces its own 422, which no route here ever answers."""
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for methods in document["paths"].values():
        for operation in methods.values():
            responses = operation["responses"]
            if PROBLEM not in responses.get("422", {}).get("content", {PROBLEM: None}):
                del responses["422"]


def _problem_response(possible: list[ErrorCode]) -> dict[str, Any]:
    return {
        "description": " ".join(f"{each.code}: {each.title}" for each in possible),
        "headers": headers(),
        "content": {
            PROBLEM: {
                "schema": {"$ref": REF.format(model="Problem")},
                "examples": {each.code: _problem_example(each) for each in possible},
            }
        },
    }


def _problem_example(code: ErrorCode) -> dict[str, Any]:
    value = {
        "type": f"/api/errors/{code.code}",
        "title": code.title,
        "status": code.status,
        "detail": code.title,
        "instance": "/api/accounts",
        "code": code.code,
        "requestId": EXAMPLE_ID,
    }
    return {"summary": code.title, "value": value}
