"""Descriptions of request bodies.

The framework does not know these models: bodies are parsed by `api.http.bodies` and validated by
the domain. They are collected here and added to the document by `describe`.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def either(first: str, second: str) -> dict[str, Any]:
    """Return the JSON schema of an object that has exactly one of two members.

    `oneOf` would say it too, but generators of clients would make two classes of it.
    """
    return {
        "if": {"required": [first]},
        "then": {"not": {"required": [second]}},
        "else": {"required": [second]},
    }


def add_body_model(model: type[BaseModel]) -> None:
    """Have the document contain the schema of this model."""
    if model not in BODY_MODELS:
        BODY_MODELS.append(model)
