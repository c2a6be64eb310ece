"""The OpenAPI document describes every route completely, and its pages work offline."""

from __future__ import annotations

import re
from typing import Any

import pytest

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
PUBLIC = {
    *("listErrors", "getError", "liveness", "health", "readiness", "metrics"),
    "receiveSmsReceipt",
}


MEDIA_TYPES = {
    "metrics": "text/plain",
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
    assert len(successes) == 1 or name in {"rebuildProjection", "bulk", "undo"}
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
        status: response
        for status, response in operation["responses"].items()
        if not status.startswith("2")
    }
    assert "500" in failures
    if name not in PUBLIC:
        assert {"401", "403", "503"} <= failures.keys()
    for status, response in failures.items():
        content = response["content"][PROBLEM]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        for code, example in content["examples"].items():
            assert CODES[code].status == int(status)
            assert example["value"]["code"] == code


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


def test_every_schema_reference_resolves() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for reference in re.findall(r"'\$ref': '([^']+)'", str(DOCUMENT)):
        assert reference.removeprefix("#/components/schemas/") in schemas
    assert "HTTPValidationError" not in schemas


def test_bodies_have_the_fields_of_the_domain() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for plural in set(BY_PLURAL) & set(LISTS):
        kind = BY_PLURAL[plural]
        described = set(schemas[f"{kind.__name__}Create"]["properties"])
        account_field = {"accountId"} if kind.BELONGS_TO_ACCOUNT else set()
        assert described == set(kind.FIELDS.wire_names()) | account_field
        assert set(schemas[f"{kind.__name__}Change"]["properties"]) == described - account_field


def test_description_of_an_entity_omits_the_aggregates_decisions() -> None:
    description = DOCUMENT["components"]["schemas"]["Account"]["description"]
    assert description.startswith("An organization")
    assert "Decisions" not in description


def test_answers_have_the_described_fields(api: Api) -> None:
    api_workspace = api.new_workspace()
    account = api_workspace.account()
    schemas = DOCUMENT["components"]["schemas"]
    shown = api_workspace.client().get(f"/api/accounts/{account}?asOf=1").json()
    assert set(shown) == set(schemas["Account"]["properties"])
    response = api_workspace.client().patch(f"/api/accounts/{account}", json={"nextAction": "x"})
    position = {"Annals-Min-Position": response.headers["Annals-Position"]}
    detail = api_workspace.client().get(f"/api/accounts/{account}", headers=position).json()
    assert set(detail) == set(schemas["AccountItem"]["properties"])


def test_every_kind_has_routes() -> None:
    served = {path.split("/")[2] for path in DOCUMENT["paths"] if path.startswith("/api/")}
    assert set(LISTS) <= served
    assert set(BY_PLURAL) - served == {"workspaces"}


def test_openapi_document_is_served(api: Api) -> None:
    served: dict[str, Any] = api.client().get("/openapi.json").json()
    assert served["info"]["title"] == "Annals"
    assert set(served["paths"]) == set(DOCUMENT["paths"])
    assert served["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
