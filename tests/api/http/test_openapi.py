"""The OpenAPI document describes every route completely, and its pages work offline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api.app import create_app
from api.http.problems import PROBLEM
from domain.shared.kinds import BY_PLURAL
from readmodels.lists import LISTS
from runtime.codes import CODES
from runtime.settings import Settings
from tests.support.api_server import Api

DOCUMENT = create_app(Settings()).openapi()
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
SCHEMAS = DOCUMENT["components"]["schemas"]
VERBS = (
    "accept|cancel|change|complete|confirm|convert|correct|create|decline|delete|export|follow"
    "|get|issue|list|merge|miss|preview|rebuild|receive|reschedule|restore|retry|revise|revoke"
    "|rollBack|send|start|undo|update|upload|verify"
)
PUBLIC = {
    *("listErrors", "getError", "getLiveness", "getHealth", "getReadiness", "getMetrics"),
    "receiveSmsReceipt",
}


MEDIA_TYPES = {
    "getMetrics": "text/plain",
    "followJob": "text/event-stream",
    "followChanges": "text/event-stream",
    "getFailedRows": "text/csv",
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_route_is_described(name: str) -> None:
    method, path, operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["tags"]
    responses = operation["responses"]
    successes = [status for status in responses if status.startswith("2")]
    assert len(successes) == 1 or name in {"rebuildProjection", "changeInBulk", "undo"}
    for status in successes:
        assert "X-Request-Id" in responses[status]["headers"]
        # Operations on projections record no events.
        if method != "get" and operation["tags"] != ["operation"]:
            assert "Annals-Position" in responses[status]["headers"]
        if status != "204":
            media_type = MEDIA_TYPES.get(name, "application/json")
            media_type = "text/csv" if path.endswith("/export") else media_type
            assert responses[status]["content"][media_type]["example"]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        assert content["example"]
        assert content["schema"]
    assert ("security" in operation) == (name not in PUBLIC)
    if method == "get" and name not in PUBLIC:
        headers = [each["name"] for each in operation["parameters"] if each["in"] == "header"]
        assert "Annals-Min-Position" in headers
    if method in ("patch", "delete") or path.endswith("/restore"):
        assert "If-Match" in {each["name"] for each in operation["parameters"]}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_route_describes_its_errors(name: str) -> None:
    _, _, operation = OPERATIONS[name]
    failures = {
        status: response for status, response in operation["responses"].items() if status >= "400"
    }
    assert "500" in failures
    if name not in PUBLIC:
        assert {"401", "403", "503"} <= failures.keys()
    for status, response in failures.items():
        content = response["content"][PROBLEM]
        assert "#/components/schemas/Problem'" in str(content["schema"])
        for code, example in content["examples"].items():
            assert CODES[code].status == int(status)
            assert example == {"$ref": f"#/components/examples/{code}"}
            assert DOCUMENT["components"]["examples"][code]["value"]["status"] == int(status)


def test_every_code_is_described_by_a_route() -> None:
    named = {
        code
        for _, _, operation in OPERATIONS.values()
        for response in operation["responses"].values()
        for code in response.get("content", {}).get(PROBLEM, {}).get("examples", ())
    }
    reserved = {"E1001", "E1002"}
    by_framework = {"E2040", "E2041", "E2042"}
    before_routing = {"E4003", "E4004", "E4005", "E4006", "E4021"}
    without_route = {"E5007", "E5009", "E5032"}
    assert set(CODES) - named == reserved | by_framework | before_routing | without_route


def test_every_reference_resolves() -> None:
    for reference in re.findall(r"'\$ref': '#/components/([^']+)'", str(DOCUMENT)):
        kind, _, name = reference.partition("/")
        assert name in DOCUMENT["components"][kind]
    assert "HTTPValidationError" not in SCHEMAS


def contents(operation: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the described bodies of an operation: where, media type, content."""
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield "request", media_type, content
    for status, response in operation["responses"].items():
        for media_type, content in response.get("content", {}).items():
            yield status, media_type, content


def errors(schema: dict[str, Any], value: Any) -> list[str]:
    """Return why the value does not satisfy the schema (JSON Schema, Draft 2020-12)."""
    whole = {**schema, "components": DOCUMENT["components"]}
    validator = Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [each.message for each in validator.iter_errors(value)]


def test_every_success_has_a_schema_and_its_media_type() -> None:
    for name, (_, path, operation) in OPERATIONS.items():
        for status, response in operation["responses"].items():
            if status.startswith("2") and status != "204":
                expected = {MEDIA_TYPES.get(name, "application/json")}
                if path.endswith("/export"):
                    expected = {"text/csv", "application/x-ndjson"}
                assert set(response["content"]) == expected
                assert all(each["schema"] for each in response["content"].values())
            if status in ("204", "304"):
                assert "content" not in response


def test_every_schema_is_a_schema() -> None:
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_example_satisfies_its_schema(name: str) -> None:
    operation = OPERATIONS[name][2]
    for where, media_type, content in contents(operation):
        if "example" in content:
            found = errors(content["schema"], content["example"])
            assert found == [], f"{where} {media_type}"
    for parameter in operation.get("parameters", ()):
        for example in parameter["schema"].get("examples", ()):
            assert errors(parameter["schema"], example) == [], parameter["name"]


def test_every_example_of_a_field_or_problem_satisfies_its_schema() -> None:
    for name, schema in SCHEMAS.items():
        for field, described in schema.get("properties", {}).items():
            for example in described.get("examples", ()):
                assert errors(described, example) == [], f"{name}.{field}"
    for code, example in DOCUMENT["components"]["examples"].items():
        assert errors({"$ref": "#/components/schemas/Problem"}, example["value"]) == [], code


def test_optional_fields_have_no_default() -> None:
    """Generators would take a field with a default for one that is always there."""
    for name, schema in SCHEMAS.items():
        for field, described in schema.get("properties", {}).items():
            assert "default" not in described, f"{name}.{field}"


def test_parameters_are_not_null_and_headers_are_text_with_a_pattern() -> None:
    for _, _, operation in OPERATIONS.values():
        for parameter in operation.get("parameters", ()):
            schema, name = parameter["schema"], parameter["name"]
            assert "null" not in str(schema), name
            assert schema.get("default", "") is not None
            if parameter["in"] == "header":
                assert schema["type"] == "string"
                assert schema["pattern"]
                assert name.lower() not in ("accept", "content-type", "authorization")


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        ("If-Match", ['"3"', '"3-9f86d081884c7d65"', '"1", W/"2"', "*"], ["3", "", "*, *"]),
        ("Idempotency-Key", ["a-1", '"a-1"', "x" * 200], ["", "a b", 'a"b', "x" * 201]),
        ("Annals-Min-Position", ["0", "17"], ["", "-1", "1.5", "x"]),
    ],
)
def test_patterns_of_headers(name: str, accepted: list[str], refused: list[str]) -> None:
    parameters = OPERATIONS["changeAccount"][2]["parameters"]
    parameters = [*parameters, *OPERATIONS["getAccount"][2]["parameters"]]
    (pattern, *_) = (each["schema"]["pattern"] for each in parameters if each["name"] == name)
    assert [each for each in (*accepted, *refused) if re.search(pattern, each)] == accepted


@pytest.mark.parametrize("name", OPERATIONS)
def test_headers_of_responses_are_described(name: str) -> None:
    method, _, operation = OPERATIONS[name]
    has_key = "security" in operation
    for status, response in operation["responses"].items():
        headers = set(response["headers"])
        assert ("RateLimit" in headers) == ("RateLimit-Policy" in headers)
        assert ("RateLimit" in headers) == (has_key and status != "401")
        assert ("WWW-Authenticate" in headers) == (status == "401")
        assert status not in ("429", "503") or "Retry-After" in headers
        assert status != "415" or {"Accept", "Accept-Patch"} & headers
    ok = operation["responses"].get("200", {})
    reads_json = method == "get" and "application/json" in ok.get("content", {})
    assert ("304" in operation["responses"]) == reads_json
    names = {each["name"] for each in operation.get("parameters", ())}
    assert ("If-None-Match" in names) == reads_json
    if reads_json:
        assert "ETag" in ok["headers"]
        assert "ETag" in operation["responses"]["304"]["headers"]
    if method == "get" and "cursor" in names:
        assert "Link" in ok["headers"]


def test_json_patch_is_typed() -> None:
    body = OPERATIONS["changeAccount"][2]["requestBody"]["content"]
    assert set(body) == {
        *("application/merge-patch+json", "application/json-patch+json", "application/json")
    }
    schema = body["application/json-patch+json"]["schema"]
    move = {"op": "move", "from": "/company", "path": "/nextAction"}
    for operation in (
        *({"op": "add", "path": "/company", "value": None}, {"op": "remove", "path": "/company"}),
        move,
    ):
        assert errors(schema, [operation]) == []
    for operation in ({"op": "add", "path": "/x"}, {"op": "merge"}, {"op": "move", "path": "/x"}):
        assert errors(schema, [operation])


def test_tags_and_servers_are_described() -> None:
    assert DOCUMENT["servers"]
    described = {each["name"]: each["description"] for each in DOCUMENT["tags"]}
    assert all(described.values())
    used = {tag for _, _, operation in OPERATIONS.values() for tag in operation["tags"]}
    assert used == set(described)


def test_names_are_unique_and_plain() -> None:
    names = [
        operation["operationId"]
        for methods in DOCUMENT["paths"].values()
        for operation in methods.values()
    ]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(f"({VERBS})([A-Z][a-zA-Z]*)?", name), name
    for name in SCHEMAS:
        assert re.fullmatch("[A-Z][a-zA-Z]*", name), name
        assert not name.endswith(("Asked", "Wanted", "Given"))


def test_bodies_have_the_fields_that_clients_may_give() -> None:
    for plural in set(BY_PLURAL) & set(LISTS):
        kind = BY_PLURAL[plural]
        expected = set(kind.FIELDS.wire_names()) - kind.FIELDS.read_only()
        expected |= {"durationMinutes"} if plural == "appointments" else set()
        account_field = {"accountId"} if kind.BELONGS_TO_ACCOUNT else set()
        described = set(SCHEMAS[f"{kind.__name__}Create"]["properties"])
        assert described == expected | account_field
        assert set(SCHEMAS[f"{kind.__name__}Change"]["properties"]) == expected


@pytest.mark.parametrize(
    ("fields", "is_accepted"),
    [
        ({"endsAt": "2026-02-02T10:30:00Z"}, True),
        ({"durationMinutes": 30}, True),
        ({"durationMinutes": 30, "status": "completed", "location": None}, True),
        ({}, False),
        ({"durationMinutes": 0}, False),
        ({"durationMinutes": 30, "confirmedAt": "2026-02-02T10:30:00Z"}, False),
    ],
)
def test_appointments_are_accepted_as_described(
    api: Api, fields: dict[str, Any], is_accepted: bool
) -> None:
    api_workspace = api.new_workspace()
    member = api_workspace.make("members", name="Ada").json()["id"]
    body = {
        "title": "Call",
        "memberId": member,
        "startsAt": "2026-02-02T10:00:00Z",
        "accountId": api_workspace.account(),
        **fields,
    }
    response = api_workspace.client().post("/api/appointments", json=body)
    assert response.is_success == is_accepted, response.text
    assert (errors({"$ref": "#/components/schemas/AppointmentCreate"}, body) == []) == is_accepted


def test_description_of_an_entity_omits_the_aggregates_decisions() -> None:
    description = SCHEMAS["Account"]["description"]
    assert description.startswith("An organization")
    assert "Decisions" not in description


def test_answers_have_the_described_fields(api: Api) -> None:
    api_workspace = api.new_workspace()
    account = api_workspace.account()
    shown = api_workspace.client().get(f"/api/accounts/{account}?asOf=1").json()
    assert set(shown) == set(SCHEMAS["Account"]["properties"])
    response = api_workspace.client().patch(f"/api/accounts/{account}", json={"nextAction": "x"})
    position = {"Annals-Min-Position": response.headers["Annals-Position"]}
    detail = api_workspace.client().get(f"/api/accounts/{account}", headers=position).json()
    assert set(detail) == set(SCHEMAS["AccountItem"]["properties"])


def test_every_kind_has_routes() -> None:
    served = {path.split("/")[2] for path in DOCUMENT["paths"] if path.startswith("/api/")}
    assert set(LISTS) <= served
    assert set(BY_PLURAL) - served == {"workspaces"}


def test_openapi_document_is_served(api: Api) -> None:
    served: dict[str, Any] = api.client().get("/openapi.json").json()
    assert served["info"]["title"] == "Annals"
    assert set(served["paths"]) == set(DOCUMENT["paths"])
    assert served["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
