"""Compares what the API really sends with what its OpenAPI document says.

The clients of the tests (`Api.client`) call `Contract.check` with every response, so each test over
HTTP is also a test of the document.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from typing import Any

import httpx
import jsonschema_rs

from api.http.problems import PROBLEM

JSON_TYPES = ("application/json", PROBLEM)
UNDESCRIBED_CODES = {
    *("E2040", "E2041"),  # there is no such route, or it has no such method
    *("E4003", "E4004", "E4005", "E4006", "E4021"),  # refused before a route is chosen
}
UNCHECKED = "unchecked"
"""An extension of a request whose response is not checked, because the test reads it in parts, or
which the server accepts although the document does not say so."""
NO_BODY = ("HEAD", "OPTIONS")


class Contract:
    """The document, and its schemas made strict: an object has no members but the described."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._routes = sorted(
            ((_pattern(path), path) for path in document["paths"]),
            key=lambda each: each[1].count("{"),
        )

    def check(self, response: httpx.Response) -> None:
        """Assert that the response is described; a successful request has to be described, too."""
        request = response.request
        found = None if UNCHECKED in request.extensions else self._find(request)
        if found is None:
            return
        name, operation = found
        if response.is_error and self._is_undescribed(response):
            return
        if response.status_code == 400 and "X-Request-Id" not in response.headers:
            return  # the server could not read the head
        described = operation["responses"].get(str(response.status_code))
        subject = f"{name} {response.status_code}"
        assert described is not None, f"{subject} is not described: {_text(response)}"
        self._check_headers(subject, described, response)
        if request.method in NO_BODY or response.status_code in (204, 304):
            return
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        content = described.get("content", {})
        assert media_type in content, f"{subject} is {media_type} and not {list(content)}"
        if media_type in JSON_TYPES:
            self._check_body(subject, content[media_type], response)
        if response.is_success:
            self._check_request(name, operation, request)

    def _check_headers(
        self, subject: str, described: Mapping[str, Any], response: httpx.Response
    ) -> None:
        for name, schema in self.response_headers.items():
            value = response.headers.get(name)
            if name not in described["headers"]:
                assert value is None, f"{subject} does not describe {name}: {value}"
            elif value is None:
                is_left_out = response.request.method == "HEAD"
                assert is_left_out or not schema.get("required"), f"{subject} has no {name}"
            else:
                is_number = schema["schema"]["type"] == "integer"
                error = self.error_of(schema["schema"], int(value) if is_number else value)
                assert error is None, f"{subject}, {name}: {error}"

    def _check_body(
        self, subject: str, content: Mapping[str, Any], response: httpx.Response
    ) -> None:
        body = json.loads(response.read())
        error = self.error_of(content["schema"], body)
        assert error is None, f"{subject}: {error}"
        if "examples" in content:
            code = body.get("errorCode", body["code"])
            assert code in content["examples"], f"{subject} does not name {code}: {body['detail']}"

    def _check_request(
        self, name: str, operation: Mapping[str, Any], request: httpx.Request
    ) -> None:
        """Assert that a request that was accepted is one that the document describes."""
        given = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        content = operation.get("requestBody", {}).get("content", {})
        if not given or not content:
            return
        assert given in content, f"{name} accepts {given}"
        if given.endswith("json"):
            schema, body = content[given]["schema"], json.loads(request.content)
            error = self.error_of(schema, body)
            if error is not None:
                error = self.error_of(schema, _as_documented(body))
            assert error is None, f"{name} accepts {request.content!r}: {error}"

    def error_of(self, schema: Mapping[str, Any], value: Any) -> str | None:
        """Return why the value does not satisfy the schema; None if it does."""
        errors = self._validator(json.dumps(schema)).iter_errors(value)
        shown = [f"{each.instance_path}: {each.message[:300]}" for each in errors]
        return "; ".join(shown) or None

    @cached_property
    def response_headers(self) -> Mapping[str, Any]:
        """The headers that responses may have."""
        headers: Mapping[str, Any] = self._document["components"]["headers"]
        return headers

    @cached_property
    def _strict_components(self) -> dict[str, Any]:
        components = copy.deepcopy(dict(self._document["components"]))
        _close(components["schemas"])
        return {"schemas": components["schemas"]}

    @cache  # noqa: B019 there is one contract in a process
    def _validator(self, schema: str) -> Any:
        whole = {**json.loads(schema), "components": self._strict_components}
        return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)

    def _find(self, request: httpx.Request) -> tuple[str, Mapping[str, Any]] | None:
        """Return the operation of a request, with its name."""
        path = request.url.path
        method = "get" if request.method == "HEAD" else request.method.lower()
        matching = [each for pattern, each in self._routes if pattern.fullmatch(path)]
        for template in matching[:1]:
            operation = self._document["paths"][template].get(method)
            if operation is not None:
                return f"{request.method} {template}", operation
        return None

    def _is_undescribed(self, response: httpx.Response) -> bool:
        is_problem = response.headers.get("Content-Type", "").startswith(PROBLEM)
        if not is_problem or response.request.method in NO_BODY:
            return False
        return json.loads(response.read())["code"] in UNDESCRIBED_CODES


def _as_documented(body: Any) -> Any:
    """Return a body without what docs/clients.md says is accepted besides the document.

    Enumerations may be written in any case, and null stands for no value.
    """
    if isinstance(body, dict):
        return {name: _as_documented(each) for name, each in body.items() if each is not None}
    if isinstance(body, list):
        return [_as_documented(each) for each in body]
    return body.lower() if isinstance(body, str) else body


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{[^}]+\\}", "[^/]+", re.escape(path)))


def _close(schemas: Any) -> None:
    """Refuse undescribed members of every described object."""
    for schema in _dicts(schemas):
        if isinstance(schema.get("properties"), dict) and "type" in schema:
            schema.setdefault("additionalProperties", False)


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in list(value.values()):
            yield from _dicts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _dicts(each)


def _text(response: httpx.Response) -> str:
    return response.read().decode(errors="replace")[:500]
