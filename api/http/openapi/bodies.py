"""Descriptions of request bodies.

The framework does not know these models: bodies are parsed by `api.http.bodies` and validated by
the domain. They are collected here and added to the document by `describe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

REF = "#/components/schemas/{model}"

BODY_MODELS: list[type[BaseModel]] = []
"""Models to be added to the components of the document."""


def request_body(contents: Mapping[str, tuple[type[BaseModel] | None, Any]]) -> dict[str, Any]:
    """Describe the request body of a route by a model and an example for each media type."""
    content = {}
    for media_type, (model, example) in contents.items():
        schema: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
        if model is not None:
            add_body_model(model)
            schema = {"$ref": REF.format(model=model.__name__)}
        content[media_type] = {"schema": schema, "example": example}
    return {"requestBody": {"required": True, "content": content}}


def add_body_model(model: type[BaseModel]) -> None:
    """Have the document contain the schema of this model."""
    if model not in BODY_MODELS:
        BODY_MODELS.append(model)
