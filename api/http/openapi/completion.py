"""What the document has for every route alike, and what the framework describes too loosely."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import orjson

from api.http.openapi.examples import without_marks
from api.http.openapi.headers import IF_NONE_MATCH, RESPONSE_HEADERS, described_headers
from api.http.openapi.responses import problem_examples
from api.http.problems import PROBLEM
from domain.shared.kinds import BY_PLURAL
from readmodels.lists import LISTS
from runtime.patches import JSON_TYPE

NULL = {"type": "null"}
TAGS: Mapping[str, str] = MappingProxyType(
    {
        "sms": "Text messages to leads.",
        "merge": "Duplicates, and the merge of two entities.",
        "imports": "Imports of CSV files.",
        "jobs": "Changes of many entities, and the progress of jobs.",
        "undo": "Undoing events and commands.",
        "audit": "Who changed what, when and from where.",
        "realtime": "Changes as they happen.",
        "keys": "API keys and the caller.",
        "workspace": "The workspace that the key belongs to.",
        "operation": "Health, metrics, projections, checks of the log, and error codes.",
    }
)
"""The groups of routes besides those of one kind of entity, in the order of the documentation."""
NO_VALUES: tuple[Any, ...] = (None, "", [], {})
"""Defaults that go without saying."""
SERVERS = [{"url": "/", "description": "The server of this document."}]
COMBINED = ("anyOf", "oneOf", "allOf", "prefixItems")
NESTED = ("items", "additionalProperties", "not", "if", "then", "else")
NAMED = ("properties", "$defs")


def complete(document: dict[str, Any]) -> None:
    """Complete the document that the framework generated, in place."""
    components = document["components"]
    components["examples"] = problem_examples()
    components["headers"] = {name: dict(each) for name, each in RESPONSE_HEADERS.items()}
    document["tags"] = [
        {"name": name, "description": text} for name, text in {**_kinds(), **TAGS}.items()
    ]
    document["servers"] = SERVERS
    _drop_framework_errors(document)
    for model in components["schemas"].values():
        for schema in _schemas([model]):
            schema.pop("title", None)
            _describe_default(schema, is_request=model.get("additionalProperties") is False)
    for methods in document["paths"].values():
        for method, operation in methods.items():
            _complete_operation(method, operation, components["schemas"])


def _describe_default(schema: dict[str, Any], *, is_request: bool) -> None:
    """Move the default of a field to its description.

    Generators take a field with a default for one that is always there.
    """
    default = schema.pop("default", None)
    if is_request and default not in NO_VALUES:
        text = f"By default {orjson.dumps(default).decode()}."
        schema["description"] = " ".join([*filter(None, [schema.get("description")]), text])


def _kinds() -> dict[str, str]:
    """Return the tags of the kinds that have a list, each with the first line of its class."""
    return {
        plural: (inspect.getdoc(BY_PLURAL[plural]) or "").partition("\n")[0] for plural in LISTS
    }


def _complete_operation(method: str, operation: dict[str, Any], models: Mapping[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        _describe_as_text(parameter["schema"])
    for body in (operation.get("requestBody", {}), *operation["responses"].values()):
        for content in body.get("content", {}).values():
            if "example" in content:
                content["example"] = without_marks(content["example"])
            for schema in _schemas([content["schema"]]):
                schema.pop("title", None)
    if method == "get" and JSON_TYPE in operation["responses"]["200"].get("content", {}):
        _describe_conditions(operation, models)
    if "security" in operation:
        for status, response in operation["responses"].items():
            if status != "401":
                response["headers"] |= described_headers("RateLimit", "RateLimit-Policy")


def _describe_conditions(operation: dict[str, Any], models: Mapping[str, Any]) -> None:
    """Describe ETag, Link, If-None-Match and 304 of a route that reads JSON."""
    ok = operation["responses"]["200"]
    reference = ok["content"][JSON_TYPE]["schema"].get("$ref", "")
    shown = models.get(reference.rpartition("/")[2], {}).get("properties", {})
    links = ("Link",) if {"pagination", "nextCursor"} & shown.keys() else ()
    ok["headers"] |= described_headers("ETag", *links)
    operation["responses"]["304"] = {
        "description": "A tag of If-None-Match is that of the response, which is left out.",
        "headers": described_headers("ETag", "X-Request-Id"),
    }
    operation.setdefault("parameters", []).append(dict(IF_NONE_MATCH))


def _describe_as_text(schema: dict[str, Any]) -> None:
    """Remove the alternative null of a parameter: a URL or a header cannot express it."""
    schema.pop("title", None)
    if schema.get("default", "") is None:
        del schema["default"]
    alternatives = [each for each in schema.get("anyOf", ()) if each != NULL]
    if len(alternatives) == 1:
        del schema["anyOf"]
        schema.update({**alternatives[0], **schema})
    elif alternatives:
        schema["anyOf"] = alternatives


def _drop_framework_errors(document: dict[str, Any]) -> None:
    """Remove the framework's own 422 responses, which no route of this API returns."""
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for methods in document["paths"].values():
        for operation in methods.values():
            responses = operation["responses"]
            if PROBLEM not in responses.get("422", {}).get("content", {PROBLEM: None}):
                del responses["422"]


def _schemas(given: Any) -> Iterator[dict[str, Any]]:
    """Yield these schemas and those within them."""
    for schema in given:
        if not isinstance(schema, dict):
            continue
        yield schema
        for name in COMBINED:
            yield from _schemas(schema.get(name, ()))
        for name in NESTED:
            yield from _schemas([schema.get(name)])
        for name in NAMED:
            yield from _schemas(schema.get(name, {}).values())
