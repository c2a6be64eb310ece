"""The OpenAPI document as it is served, and what the API looks up in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from api.http.openapi.bodies import BODY_MODELS, REF
from api.http.openapi.completion import complete


def describe(app: FastAPI) -> None:
    """Add the models of request bodies and of problems to the app's OpenAPI document."""
    openapi_of_framework = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = openapi_of_framework()
            _, definitions = models_json_schema(
                [(model, "validation") for model in BODY_MODELS], ref_template=REF
            )
            schemas = document["components"]["schemas"]
            for name, schema in definitions["$defs"].items():
                schemas.setdefault(name, schema)
            complete(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def methods_at(app: FastAPI, path: str) -> list[str]:
    """Return the methods that the API serves at this path."""
    templates = app.openapi()["paths"]
    # A literal path such as /api/leads/update-status also has the form of one with an id.
    found = [path] if path in templates else [each for each in templates if _matches(each, path)]
    return sorted({method.upper() for each in found for method in templates[each]})


def query_parameters_by_operation(app: FastAPI) -> Mapping[str, frozenset[str]]:
    """Return the names of the query parameters of each operation, by operationId."""
    return {
        operation["operationId"]: frozenset(
            each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"
        )
        for methods in app.openapi()["paths"].values()
        for operation in methods.values()
    }


def _matches(template: str, path: str) -> bool:
    expected, given = template.split("/"), path.split("/")
    return len(expected) == len(given) and all(
        one.startswith("{") or one == other for one, other in zip(expected, given, strict=True)
    )
