"""Descriptions of request bodies.

The framework does not know these models: bodies are parsed by `api.http.bodies` and validated by
the domain. They are collected here and added to the document by `describe`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from api.http.openapi.examples import with_marks

REF = "#/components/schemas/{model}"

BODY_MODELS: list[type[BaseModel]] = []
"""Models to be added to the components of the document."""


def request_body(contents: Mapping[str, tuple[type[BaseModel], Any]]) -> dict[str, Any]:
    """Describe the request body of a route by a model and an example for each media type."""
    content = {}
    for media_type, (model, example) in contents.items():
        add_body_model(model)
        schema = {"$ref": REF.format(model=model.__name__)}
        content[media_type] = {"schema": schema, "example": with_marks(example)}
    return {"requestBody": {"required": True, "content": content}}


def either(first: str, second: str) -> Callable[[dict[str, Any]], None]:
    """Return what describes an object that has exactly one of two members, for its JSON schema.

    `oneOf` would say it too, but generators of clients would make two classes of it.
    """

    def describe(schema: dict[str, Any]) -> None:
        schema |= {
            "if": {"not": {"required": [first]}},
            "then": {"required": [second]},
            "not": {"required": [first, second]},
        }
        _without_null(schema, first, second)

    return describe


def one_member(schema: dict[str, Any]) -> None:
    """Describe an object that has exactly one of its members."""
    schema |= {"minProperties": 1, "maxProperties": 1}
    _without_null(schema, *schema["properties"])


def _without_null(schema: dict[str, Any], *names: str) -> None:
    """Remove the alternative null of these members, which is accepted as if they were absent."""
    for name in names:
        member = schema["properties"][name]
        (described,) = (each for each in member.pop("anyOf") if each != {"type": "null"})
        member |= described


def add_body_model(model: type[BaseModel]) -> None:
    """Have the document contain the schema of this model."""
    if model not in BODY_MODELS:
        BODY_MODELS.append(model)
