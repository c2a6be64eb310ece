"""Every door by which an entity is created follows the same rules: POST, CSV import, restore."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from domain.shared.entity import Entity
from domain.shared.kinds import KINDS
from domain.shared.refusals import InvalidFields
from tests.support.api_server import ApiWorkspace
from tests.support.examples import EXAMPLES
from tests.support.imports import Importer, errors

WITH_STATUS = [each for each in EXAMPLES if each.kind.IS_IMPORTABLE and each.kind.STATUS_FIELD]
every_kind_with_status = pytest.mark.parametrize(
    "kind", [each.kind for each in WITH_STATUS], ids=lambda kind: str(kind.KIND)
)
CREATED_BY_COMMANDS_ONLY = ("sms", "api_key", "workspace")


def statuses_of(kind: type[Entity]) -> list[str]:
    """Return all statuses of the kind, those first in which it may not be created."""
    assert kind.STATUS_FIELD is not None
    statuses: Any = kind.FIELDS.model_fields[kind.STATUS_FIELD].annotation
    return sorted(map(str, statuses), key=lambda status: status not in kind.STATUSES_OF_COMMANDS)


def fields_of(kind: type[Entity], number: int, status: str, member: str) -> dict[str, Any]:
    """Return the fields of a new entity in this status, at a time of its own."""
    (example,) = (each for each in EXAMPLES if each.kind is kind)
    fields = {name: value for name, value in example.values.items() if isinstance(value, str)}
    if "memberId" in fields:
        times = {
            "startsAt": f"2026-02-{number:02}T10:00:00Z",
            "endsAt": f"2026-02-{number:02}T11:00:00Z",
        }
        fields |= {"memberId": member, **times}
    assert kind.STATUS_FIELD is not None
    return {**fields, kind.STATUS_FIELD: status}


def refused_fields(kind: type[Entity], fields: dict[str, Any]) -> list[str]:
    """Return the fields for which the domain refuses to create the entity."""
    account_id = uuid4() if kind.BELONGS_TO_ACCOUNT else None
    at = datetime(2026, 3, 1, tzinfo=UTC)
    try:
        kind.create(uuid4(), uuid4(), fields, at=at, account_id=account_id)
    except InvalidFields as refused:
        return [each.field for each in refused.errors]
    return []


def test_statuses_that_only_commands_set() -> None:
    of_commands = {
        kind.KIND: set(kind.STATUSES_OF_COMMANDS)
        for kind in KINDS.values()
        if kind.STATUSES_OF_COMMANDS
    }
    assert of_commands == {
        "appointment": {"confirmed"},
        "proposal": {"sent", "accepted", "declined"},
    }


@pytest.mark.parametrize(
    ("plural", "status"),
    [
        ("appointments", "completed"),
        ("appointments", "cancelled"),
        ("appointments", "no_show"),
        ("tasks", "done"),
        ("leads", "won"),
    ],
)
def test_what_has_ended_elsewhere_may_be_recorded_as_ended(
    api_workspace: ApiWorkspace, plural: str, status: str
) -> None:
    (kind,) = (each.kind for each in WITH_STATUS if plural == each.kind.PLURAL)
    member = api_workspace.make("members", name="Ada").json()["id"]
    account = {"accountId": api_workspace.account()} if kind.BELONGS_TO_ACCOUNT else {}
    made = api_workspace.make(plural, **fields_of(kind, 1, status, member), **account)
    assert (made.status_code, made.json()["status"]) == (201, status), made.text


@every_kind_with_status
def test_post_and_import_create_in_the_same_statuses(
    api_workspace: ApiWorkspace, tmp_path: Path, kind: type[Entity]
) -> None:
    member = api_workspace.make("members", name="Ada").json()["id"]
    account = {"accountId": api_workspace.account()} if kind.BELONGS_TO_ACCOUNT else {}
    statuses = statuses_of(kind)
    rows: list[dict[str, Any]] = []
    for number, status in enumerate(statuses, 1):
        fields = fields_of(kind, number, status, member)
        answer = api_workspace.client().post(f"/api/{kind.PLURAL}", json={**fields, **account})
        if not (refused_by_domain := refused_fields(kind, fields)):
            assert answer.status_code == 201, answer.text
        else:
            assert (answer.status_code, answer.json()["code"]) == (422, "E2095"), answer.text
            assert [each["field"] for each in answer.json()["errors"]] == refused_by_domain
            assert refused_by_domain == [kind.STATUS_FIELD]
        rows.append({**fields_of(kind, number + 14, status, member), **account})
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    importer = Importer(api_workspace.api.settings, api_workspace.workspace_id, tmp_path)
    result = importer.run(kind.PLURAL, "\n".join([*lines, ""]))
    refused = len(kind.STATUSES_OF_COMMANDS)
    assert (result.created, result.failed) == (len(statuses) - refused, refused)
    assert {(row, column) for row, column, _, _ in errors(result)} == {
        (row, kind.STATUS_FIELD) for row in range(2, 2 + refused)
    }


@pytest.mark.parametrize("kind", CREATED_BY_COMMANDS_ONLY)
@pytest.mark.parametrize("form", [0, 1], ids=["singular", "plural"])
def test_kinds_that_only_commands_create_have_no_other_door(
    api_workspace: ApiWorkspace, kind: str, form: int
) -> None:
    name = (KINDS[kind].KIND, KINDS[kind].PLURAL)[form]
    client = api_workspace.client()
    lead = api_workspace.make("leads", name="Ada", phone="+442079460000").json()["id"]
    content = f"leadId,phone,message\n{lead},+442079460000,Hello\n"
    imported = client.post(
        "/api/imports", params={"kind": name}, content=content, headers={"Content-Type": "text/csv"}
    )
    assert (imported.status_code, imported.json()["code"]) == (400, "E2031"), imported.text
    if kind == "sms":
        posted = client.post(f"/api/{name}", json={"leadId": lead, "message": "Hello"})
        assert posted.status_code in (404, 405)
        change = {"kind": name, "ids": [str(uuid4())], "change": {"restore": True}}
        assert client.post("/api/bulk", json=change).status_code == 422


@pytest.mark.parametrize("name", ["compnay", "Company", "id"])
def test_unknown_field_is_refused_even_if_it_is_null(
    api_workspace: ApiWorkspace, name: str
) -> None:
    client = api_workspace.client()
    made = client.post("/api/accounts", json={"company": "Acme", "type": "customer", name: None})
    assert (made.status_code, made.json()["code"]) == (422, "E2005"), made.text
    path = f"/api/accounts/{api_workspace.account()}"
    merged = client.patch(path, json={name: None})
    assert (merged.status_code, merged.json()["code"]) == (422, "E2005"), merged.text
    patch = [{"op": "add", "path": f"/{name}", "value": None}]
    headers = {"Content-Type": "application/json-patch+json"}
    patched = client.patch(path, json=patch, headers=headers)
    assert (patched.status_code, patched.json()["code"]) == (422, "E2005"), patched.text
    assert patched.json()["errors"][0]["field"] == name


def test_statuses_are_accepted_in_any_case(api_workspace: ApiWorkspace) -> None:
    made = api_workspace.make("accounts", company="Acme", type="Customer", priority="HIGH").json()
    assert (made["type"], made["priority"]) == ("customer", "high")
    client = api_workspace.client()
    changed = client.patch(f"/api/accounts/{made['id']}", json={"status": "Active"})
    assert changed.json()["status"] == "active"
    api_workspace.api.wait_until_projected(int(changed.headers["Annals-Position"]))
    listed = client.get("/api/accounts", params={"status": "ACTIVE"}).json()
    assert [each["id"] for each in listed["items"]] == [made["id"]]
    change = {
        "kind": "accounts",
        "ids": [made["id"]],
        "change": {"set": {"priority": "Low"}},
    }
    assert client.post("/api/bulk", json=change).json()["succeeded"] == 1
    assert client.get("/api/audit", params={"entityType": "accounts"}).status_code == 200


def test_text_is_recorded_in_normal_form_c(api_workspace: ApiWorkspace) -> None:
    fields = {"company": "Cafe\u0301", "type": "customer", "customFields": {"e\u0301": "o\u0308"}}
    made = api_workspace.make("accounts", **fields).json()
    assert (made["company"], made["customFields"]) == ("Caf\u00e9", {"\u00e9": "\u00f6"})


def test_import_finds_the_same_key_without_regard_to_case_accents_and_form(
    api_workspace: ApiWorkspace, tmp_path: Path
) -> None:
    importer = Importer(api_workspace.api.settings, api_workspace.workspace_id, tmp_path)
    rows = "company,type\nCAF\u00c9,customer\nCafe\u0301,customer\ncafe,customer\n"
    result = importer.run("accounts", rows, dedupe_by=("company",))
    assert (result.created, result.skipped, result.failed) == (1, 2, 0)
