"""Errors of fields name the client's own fields, in terms of JSON and never of Python."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from domain.shared.entity import Entity
from readmodels.lists import LISTS
from tests.support.api_server import ApiWorkspace
from tests.support.contract import UNCHECKED
from tests.support.examples import EXAMPLES
from tests.support.imports import Importer

WRONG: list[Any] = [
    *(None, True, 0, -1.5, 1e300, "", "x" * 30_000, "a\0b", "not a value", "2026-13-45"),
    *([], [1], {}, {"a": 1}, {"a": {}}, {"x" * 200: 1}),
]
WRONG_CELLS = ["x" * 15_000, "not a value", "2026-13-45", "-1.5", "1e400"]
WRONG_PARAMETERS = ["", "nonsense", "1", "-1", "x" * 300, "a\0b"]
PYTHON = re.compile(
    r"\b(dict|Dictionary|dictionary|List|list|bytes|Decimal|str|enum|True|False|None|instance|object"
    r" or|Value error|validation|literal|function)\b|<"
)
"""Words of Python and of pydantic. `object` alone is one of JSON."""
UNKNOWN = ["nonsense", "created_at", "company_folded", "customFields.x"]

KINDS = [each for each in EXAMPLES if each.kind.PLURAL in LISTS]
every_kind = pytest.mark.parametrize("kind", [each.kind for each in KINDS], ids=lambda k: k.KIND)


def faults(response: httpx.Response, given: set[str]) -> Iterator[str]:
    """Yield what is wrong with the errors in a response to a request with these names."""
    if response.is_success:
        return
    problem = response.json()
    if response.status_code >= 500:
        yield f"{response.status_code} {problem['detail']}"
    for error in problem.get("errors", ()):
        path, message = error["field"], error["message"]
        names = {path, path.partition(".")[0], path.removeprefix("filter.")}
        if not names & given or "[" in path or PYTHON.search(path + " " + message):
            yield f"{path}: {message}"
    if not problem.get("errors") and PYTHON.search(problem["detail"]):
        yield problem["detail"]


def example(api_workspace: ApiWorkspace, kind: type[Entity]) -> dict[str, Any]:
    """Return the fields of a new entity of the kind, with what it refers to."""
    (found,) = (each for each in KINDS if each.kind is kind)
    values = dict(found.values)
    if "memberId" in values:
        member = api_workspace.make("members", name="Ada").json()["id"]
        values |= {"memberId": member, "allowOverlap": True}
    if kind.BELONGS_TO_ACCOUNT:
        values["accountId"] = api_workspace.account()
    return values


def names_of(kind: type[Entity]) -> set[str]:
    """Return the declared names of a body of the kind."""
    return {*kind.FIELDS.wire_names(), "accountId"}


@every_kind
def test_errors_of_bodies_name_declared_or_given_fields(
    api_workspace: ApiWorkspace, kind: type[Entity]
) -> None:
    client = api_workspace.client()
    wrong: set[str] = set()
    valid = example(api_workspace, kind)
    made = api_workspace.make(kind.PLURAL, **valid).json()["id"]

    def send(method: str, path: str, body: Any, media_type: str, given: set[str]) -> None:
        content = json.dumps(body)
        headers = {"Content-Type": media_type}
        extensions = {UNCHECKED: True}  # 0 is accepted as a boolean, for example
        answer = client.request(
            method, path, content=content, headers=headers, extensions=extensions
        )
        wrong.update(f"{method} {path}: {each}" for each in faults(answer, given))

    for name in (*names_of(kind), *UNKNOWN):
        for value in WRONG:
            given = {*names_of(kind), name}
            of_entity = f"/api/{kind.PLURAL}/{made}"
            send("POST", f"/api/{kind.PLURAL}", {**valid, name: value}, "application/json", given)
            send("PATCH", of_entity, {name: value}, "application/merge-patch+json", given)
            operation = {"op": "add", "path": f"/{name}", "value": value}
            send("PATCH", of_entity, [operation], "application/json-patch+json", given)
            change = {"kind": kind.KIND, "ids": [made], "change": {"set": {name: value}}}
            send("POST", "/api/bulk", change, "application/json", {*given, "change"})
    assert wrong == set()


@every_kind
def test_errors_of_filters_name_the_parameter(
    api_workspace: ApiWorkspace, kind: type[Entity]
) -> None:
    client = api_workspace.client()
    wrong: set[str] = set()
    options = {"page", "pageSize", "cursor", "sortBy", "sortOrder", "asOf", "search"}
    for name in {*LISTS[kind.PLURAL].filters, *options}:
        for value in WRONG_PARAMETERS:
            answer = client.get(f"/api/{kind.PLURAL}", params={name: value})
            wrong.update(faults(answer, {name}))
            body = {"kind": kind.KIND, "filter": {name: value}, "change": {"delete": True}}
            answer = client.post("/api/bulk", json={**body, "atomic": "?"})
            wrong.update(faults(answer, {name, "atomic"}))
    assert wrong == set()


@every_kind
def test_errors_of_cells_name_the_column(
    api_workspace: ApiWorkspace, tmp_path: Path, kind: type[Entity]
) -> None:
    if not kind.IS_IMPORTABLE:
        return
    valid = {
        name: str(value)
        for name, value in example(api_workspace, kind).items()
        if isinstance(value, str)
    }
    importer = Importer(api_workspace.api.settings, api_workspace.workspace_id, tmp_path)
    wrong: set[str] = set()
    for name in valid:
        rows = [
            ",".join(valid),
            *(",".join({**valid, name: cell}.values()) for cell in WRONG_CELLS),
        ]
        result = importer.run(kind.PLURAL, "\n".join([*rows, ""]))
        for issue in result.issues:
            column = issue.column.removeprefix("customFields.")
            if column not in {*valid, ""} or PYTHON.search(issue.message):
                wrong.add(f"{issue.column}: {issue.message}")
    assert wrong == set()


ID = str(UUID(int=1))
BODIES: dict[str, list[dict[str, Any]]] = {
    "/api/leads/update-status": [
        {},
        {"leadId": 1, "status": "lost"},
        {"leadIds": ["x"], "status": 1},
        {"leadIds": 1, "status": "lost"},
        {"leadId": ID, "leadIds": [], "status": "new"},
    ],
    "/api/bookings/confirm": [{}, {"appointmentId": 1, "confirmedBy": 2, "notify": "x", "foo": 1}],
    "/api/bulk": [
        {"kind": 1, "ids": "x", "change": 1},
        {"kind": "lead", "ids": [1], "change": {"delete": False, "restore": 1}},
        {"kind": "lead", "filter": 1, "change": {"set": [], "zap": 1}},
        {"kind": "lead", "ids": [], "change": {"set": {}}},
    ],
    "/api/undo": [{}, {"commandId": 1, "force": 1}, {"eventPosition": "x"}],
    "/api/leads/send-sms": [{}, {"leadId": "x", "message": 1, "templateId": 1, "variables": 1}],
    "/api/keys": [{}, {"name": 1, "role": "x", "memberId": "y", "expiresAt": 1}],
    "/api/accounts/{account}/merge": [{}, {"with": 1, "fields": 1}],
    "/api/leads/{lead}/convert": [
        {"account": 1, "contact": [], "opportunity": "x", "accountId": 1},
        {"account": {"company": "", "dealValue": []}, "contact": {"email": 1}},
        {"opportunity": {"value": "x", "account_id": 1}},
    ],
}


@pytest.mark.parametrize("path", BODIES)
def test_errors_of_commands_name_given_or_required_members(
    api_workspace: ApiWorkspace, path: str
) -> None:
    lead = api_workspace.make("leads", name="Ada").json()["id"]
    url = path.format(account=api_workspace.account(), lead=lead)
    required = {
        *("body", "status", "appointmentId", "confirmedBy", "leadId", "name", "role", "with"),
        *("change", "eventPosition"),
    }
    wrong: set[str] = set()
    for body in BODIES[path]:
        refused = api_workspace.client().post(url, json=body)
        assert refused.status_code in {400, 422}, refused.text
        wrong.update(faults(refused, {*body, *required}))
    assert wrong == set()


def test_type_of_accounts_is_filtered_in_any_case_and_names_its_values(
    api_workspace: ApiWorkspace,
) -> None:
    client = api_workspace.client()
    refused = client.get("/api/accounts", params={"type": "rival"}).json()
    (error,) = refused["errors"]
    assert error["field"] == "type"
    assert error["message"] == "Input should be 'investor', 'customer', 'partner' or 'all'"
    for value in ("ALL", "Customer"):
        assert client.get("/api/accounts", params={"type": value}).status_code == 200
    role = client.post("/api/keys", json={"name": str(uuid4()), "role": "operator"}).json()
    assert role["errors"][0]["message"].startswith("Input should be 'admin', 'member'")
