"""Every kind over HTTP: create, read, list, change, delete, restore, and history."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from domain.shared.kinds import BY_PLURAL
from tests.support.api_server import ApiWorkspace, after, created

EXAMPLES: dict[str, dict[str, Any]] = {
    "accounts": {"company": "Acme", "type": "investor", "checkSize": "250000.5"},
    "contacts": {"name": "Ada Lovelace", "email": "ada@example.com", "phone": "+44 20 7946 0000"},
    "tasks": {"title": "Call", "dueDate": "2026-02-02"},
    "meetings": {"title": "Kick-off", "startsAt": "2026-02-02T09:00:00+00:00"},
    "notes": {"body": "Prefers mornings."},
    "opportunities": {"name": "Renewal", "value": "48000.00"},
    "members": {"name": "Grace Hopper", "email": "grace@example.com"},
}
CHANGES: dict[str, dict[str, Any]] = {
    "accounts": {"nextAction": "Call"},
    "contacts": {"title": "CFO"},
    "tasks": {"status": "done"},
    "meetings": {"location": "Room 2"},
    "notes": {"title": "Mornings"},
    "opportunities": {"stage": "proposal"},
    "members": {"title": "Admiral"},
}


def make(api_workspace: ApiWorkspace, plural: str, **fields: Any) -> httpx.Response:
    given = {**EXAMPLES[plural], **fields}
    if BY_PLURAL[plural].ACCOUNT_REQUIRED and "accountId" not in given:
        given["accountId"] = api_workspace.account()
    return api_workspace.make(plural, **given)


@pytest.mark.parametrize("plural", EXAMPLES)
def test_created_entity_can_be_read_at_once(api_workspace: ApiWorkspace, plural: str) -> None:
    response = make(api_workspace, plural)
    shown = response.json()
    assert response.headers["Location"] == f"/api/{plural}/{shown['id']}"
    assert response.headers["ETag"].startswith('"1-')
    found = api_workspace.client().get(response.headers["Location"], headers=after(response))
    assert found.status_code == 200
    assert found.headers["ETag"].startswith('"1-')
    given = {**EXAMPLES[plural], **({"checkSize": "250000.50"} if plural == "accounts" else {})}
    assert {name: found.json()[name] for name in given} == given
    assert {name: shown[name] for name in given} == given


@pytest.mark.parametrize("plural", EXAMPLES)
def test_list_contains_the_created_entity(api_workspace: ApiWorkspace, plural: str) -> None:
    response = make(api_workspace, plural)
    page = api_workspace.client().get(f"/api/{plural}", headers=after(response)).json()
    assert [item["id"] for item in page["items"]] == [response.json()["id"]]
    assert page["pagination"] == {
        "page": 1,
        "pageSize": 50,
        "totalItems": 1,
        "totalIsExact": True,
        "totalPages": 1,
        "nextCursor": None,
    }


@pytest.mark.parametrize("plural", EXAMPLES)
def test_changes_are_recorded_with_before_and_after(
    api_workspace: ApiWorkspace, plural: str
) -> None:
    url = make(api_workspace, plural).headers["Location"]
    client = api_workspace.client()
    changed = client.patch(url, json=CHANGES[plural])
    assert changed.status_code == 200
    assert changed.headers["ETag"].startswith('"2-')
    assert CHANGES[plural].items() <= changed.json().items()
    found = client.get(url, headers=after(changed)).json()
    assert CHANGES[plural].items() <= found.items()
    assert found["version"] == 2
    (name, value), (made, change) = (
        *CHANGES[plural].items(),
        client.get(f"{url}/history").json()["items"],
    )
    assert made["action"] == "create"
    assert [(each["field"], each["after"]) for each in change["changes"]] == [(name, value)]
    assert change["actor"]["name"] == "admin key"
    assert change["command"] == f"change{BY_PLURAL[plural].__name__}"


@pytest.mark.parametrize("plural", EXAMPLES)
def test_deleted_entity_is_404_keeps_its_history_and_can_be_restored(
    api_workspace: ApiWorkspace, plural: str
) -> None:
    url = make(api_workspace, plural).headers["Location"]
    client = api_workspace.client()
    deleted = client.delete(url)
    assert deleted.status_code == 204
    assert deleted.content == b""
    gone = client.get(url, headers=after(deleted))
    assert (gone.status_code, gone.json()["code"]) == (404, "E5002")
    refused = client.patch(url, json=CHANGES[plural])
    assert (refused.status_code, refused.json()["code"]) == (409, "E5003")
    assert [each["action"] for each in client.get(f"{url}/history").json()["items"]] == [
        "create",
        "delete",
    ]
    restored = client.post(f"{url}/restore")
    assert restored.status_code == 200
    assert client.get(url, headers=after(restored)).json()["version"] == 3


@pytest.mark.parametrize("plural", EXAMPLES)
def test_deleting_and_restoring_twice_records_once(
    api_workspace: ApiWorkspace, plural: str
) -> None:
    url = make(api_workspace, plural).headers["Location"]
    client = api_workspace.client()
    for _ in range(2):
        assert client.delete(url).status_code == 204
    for _ in range(2):
        assert client.post(f"{url}/restore").headers["ETag"].startswith('"3-')


@pytest.mark.parametrize("plural", EXAMPLES)
def test_earlier_version_is_shown_as_of_its_time(api_workspace: ApiWorkspace, plural: str) -> None:
    url = make(api_workspace, plural).headers["Location"]
    client = api_workspace.client()
    (name,) = CHANGES[plural]
    current = client.get(url, headers=after(client.patch(url, json=CHANGES[plural])))
    past = client.get(url, params={"asOf": "1"})
    assert past.headers["ETag"].startswith('"1-')
    assert past.json()[name] != current.json()[name]
    at_time = client.get(url, params={"asOf": past.json()["updatedAt"]})
    assert at_time.json() == past.json()
    assert client.get(url, params={"asOf": "2020-01-01"}).status_code == 404
    assert client.get(url, params={"asOf": "99"}).status_code == 404


@pytest.mark.parametrize("plural", EXAMPLES)
def test_id_of_another_kind_is_404(api_workspace: ApiWorkspace, plural: str) -> None:
    other = "members" if plural != "members" else "accounts"
    url = f"/api/{plural}/{make(api_workspace, other).json()['id']}"
    client = api_workspace.client()
    answers = (
        client.get(url),
        client.get(url, params={"asOf": "1"}),
        client.get(f"{url}/history"),
        client.patch(url, json=CHANGES[plural]),
        client.delete(url),
        client.post(f"{url}/restore"),
        client.get(f"/api/{plural}/{uuid4()}"),
        client.get(f"/api/{plural}/{uuid4()}/history"),
    )
    assert [(each.status_code, each.json()["code"]) for each in answers] == [(404, "E5002")] * 8


def test_account_with_open_opportunities_cannot_be_deleted(api_workspace: ApiWorkspace) -> None:
    account = api_workspace.account()
    opportunity = make(api_workspace, "opportunities", accountId=account).json()["id"]
    refused = api_workspace.client().delete(f"/api/accounts/{account}")
    assert refused.status_code == 409
    assert refused.json()["code"] == "E5001"
    assert refused.json()["title"] == "Cannot delete an organization with active opportunities."
    assert refused.json()["opportunityIds"] == [opportunity]


def test_children_are_deleted_and_restored_with_their_account(
    api_workspace: ApiWorkspace,
) -> None:
    account = api_workspace.account()
    contact = make(api_workspace, "contacts", accountId=account).headers["Location"]
    client = api_workspace.client()
    deleted = client.delete(f"/api/accounts/{account}")
    assert client.get(contact, headers=after(deleted)).status_code == 404
    alone = client.post(f"{contact}/restore")
    assert (alone.status_code, alone.json()["code"]) == (422, "E5005")
    restored = client.post(f"/api/accounts/{account}/restore")
    assert client.get(contact, headers=after(restored)).status_code == 200


def test_children_need_an_account_of_the_workspace(api_workspace: ApiWorkspace) -> None:
    stranger = api_workspace.api.new_workspace().account()
    for account, status, code in (
        (None, 422, "E2004"),
        ("nonsense", 422, "E2010"),
        (7, 422, "E2010"),
        (str(uuid4()), 422, "E5005"),
        (stranger, 422, "E5005"),
    ):
        refused = api_workspace.client().post(
            "/api/notes", json={"body": "x", "accountId": account}
        )
        assert (refused.status_code, refused.json()["code"]) == (status, code)


def test_all_invalid_fields_are_reported_together(
    api_workspace: ApiWorkspace,
) -> None:
    refused = api_workspace.client().post("/api/contacts", json={"email": "ada", "colour": "red"})
    assert refused.json()["code"] == "E2003"
    assert {each["field"]: each["code"] for each in refused.json()["errors"]} == {
        "accountId": "E2004",
        "name": "E2001",
        "email": "E2002",
        "colour": "E2005",
    }


def test_opportunity_needs_no_account(api_workspace: ApiWorkspace) -> None:
    assert make(api_workspace, "opportunities").json()["accountId"] is None


def test_only_members_can_be_assigned(api_workspace: ApiWorkspace) -> None:
    refused = api_workspace.client().post(
        "/api/accounts", json={"company": "X", "type": "partner", "assignedTo": str(uuid4())}
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "E5006")
    member = make(api_workspace, "members")
    account = api_workspace.account(assignedTo=member.json()["id"])
    page = api_workspace.client().get("/api/accounts", headers=after(member))
    assert page.status_code == 200
    changed = api_workspace.client().patch(f"/api/accounts/{account}", json={"priority": "high"})
    shown = api_workspace.client().get(f"/api/accounts/{account}", headers=after(changed)).json()
    assert shown["assignedToName"] == "Grace Hopper"


def test_disallowed_status_change_is_409(api_workspace: ApiWorkspace) -> None:
    url = make(api_workspace, "opportunities", stage="won").headers["Location"]
    refused = api_workspace.client().patch(url, json={"stage": "lost"})
    assert (refused.status_code, refused.json()["code"]) == (409, "E5004")
    assert refused.json()["before"] == "won"
    assert refused.json()["allowed"] == []


def test_null_leaves_a_field_unset(api_workspace: ApiWorkspace) -> None:
    response = make(api_workspace, "accounts", nextAction=None, status=None)
    assert response.json()["status"] == "prospect"
    assert response.json()["nextAction"] is None


def test_history_is_read_page_by_page(api_workspace: ApiWorkspace) -> None:
    url = make(api_workspace, "accounts").headers["Location"]
    client = api_workspace.client()
    for number in range(3):
        client.patch(url, json={"nextAction": str(number)})
    versions, cursor = [], 0
    while cursor is not None:
        page = client.get(f"{url}/history", params={"pageSize": 3, "cursor": cursor}).json()
        versions += [each["version"] for each in page["items"]]
        cursor = page["nextCursor"]
    assert versions == [1, 2, 3, 4]


def test_events_have_the_origin_of_the_request(api_workspace: ApiWorkspace) -> None:
    response = created(
        api_workspace.client().post(
            "/api/accounts",
            json={"company": "Acme", "type": "customer"},
            headers={"X-Request-Id": "order-66", "User-Agent": "A" * 5_000},
        )
    )
    path = f"{response.headers['Location']}/history"
    (entry,) = api_workspace.client().get(path).json()["items"]
    assert entry["requestId"] == "order-66"
    assert entry["ip"] == "127.0.0.1"
    assert entry["userAgent"] == "A" * 256
    assert entry["command"] == "createAccount"
    assert entry["commandId"]
    (shown,) = api_workspace.client("member").get(path).json()["items"]
    assert shown == {name: entry[name] for name in entry if name not in ("ip", "userAgent")}
