"""Authentication, the permissions of each role, and the isolation of workspaces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from api.http.auth import KEY_CACHE_TTL_S
from commands.permissions import PERMISSIONS, Permission
from domain.api_key import Role
from tests.support.api_server import Api, ApiWorkspace, after, created

ID = "00000000-0000-7000-8000-000000000000"
PUBLIC = {
    *("listErrors", "getError", "getLiveness", "getHealth", "getReadiness", "getMetrics"),
    "receiveSmsReceipt",
}
"""Operations that need no key; the last one needs a signature."""
STREAMS = {"followChanges"}
"""Streams do not end; tests/api/realtime tests their isolation of workspaces."""


def operations(api: Api) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and description of each operation of the API."""
    for path, methods in api.app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def example_request(operation: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a request with the example body of the OpenAPI document."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    return {} if content is None else {"json": content["example"]}


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "E1003"),
        ("", "E1003"),
        ("Bearer", "E1004"),
        ("Basic YTpi", "E1004"),
        ("Bearer nonsense", "E1004"),
        ("Bearer annals_zz_secret", "E1004"),
        ("Bearer " + "a" * 5_000, "E1004"),
        (f"Bearer annals_{UUID(int=7).hex}_secret", "E1005"),
    ],
)
def test_request_without_a_valid_key_is_401(api: Api, authorization: str | None, code: str) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    client = api.client()
    for method, path, operation in operations(api):
        if operation["operationId"] in PUBLIC:
            continue
        refused = client.request(
            method,
            path.replace("{id}", ID).replace("{leadId}", ID),
            headers=headers,
            **example_request(operation),
        )
        assert (refused.status_code, refused.json()["code"]) == (401, code), path
        assert refused.headers["WWW-Authenticate"].startswith("Bearer ")
        if code == "E1003" or method == "POST":
            continue
        return  # the refusal is the same everywhere


def test_wrong_secret_is_refused_like_an_unknown_key(api_workspace: ApiWorkspace) -> None:
    token = api_workspace.token("admin")
    refused = api_workspace.api.client(token[:-1] + ("a" if token[-1] != "a" else "b")).get(
        "/api/keys"
    )
    assert (refused.status_code, refused.json()["code"]) == (401, "E1005")


def test_expired_key_is_401(api_workspace: ApiWorkspace) -> None:
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    future = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    refused = api_workspace.api.client(api_workspace.token("admin", expiresAt=past)).get(
        "/api/workspace"
    )
    assert (refused.status_code, refused.json()["code"]) == (401, "E1006")
    client = api_workspace.api.client(api_workspace.token("admin", expiresAt=future))
    assert client.get("/api/workspace").status_code == 200


def test_actor_of_a_members_key_is_the_member(api_workspace: ApiWorkspace) -> None:
    member = api_workspace.make("members", name="Grace Hopper").json()["id"]
    client = api_workspace.api.client(api_workspace.token("member", memberId=member))
    account = created(client.post("/api/accounts", json={"company": "A", "type": "partner"}))
    (entry,) = client.get(f"{account.headers['Location']}/history").json()["items"]
    assert entry["actor"] == {"type": "member", "id": member, "name": "Grace Hopper"}


def test_key_of_a_deleted_member_is_401(api_workspace: ApiWorkspace) -> None:
    member = api_workspace.make("members", name="Grace Hopper").headers["Location"]
    client = api_workspace.api.client(
        api_workspace.token("member", memberId=member.rpartition("/")[2])
    )
    assert client.get("/api/accounts").status_code == 200
    api_workspace.client().delete(member)
    time.sleep(KEY_CACHE_TTL_S)  # no key works for longer than this after its revocation
    refused = client.get("/api/accounts")
    assert (refused.status_code, refused.json()["code"]) == (401, "E1007")


def test_every_role_has_its_permissions() -> None:
    assert set(PERMISSIONS) == set(Role)
    assert PERMISSIONS[Role.ADMIN] == set(Permission) - {Permission.OPERATE}
    assert PERMISSIONS[Role.OPERATOR] == {
        Permission.OPERATE,
        Permission.PROJECTIONS,
        Permission.VERIFY,
    }
    assert (
        Permission.WRITE
        not in PERMISSIONS[Role.AUDITOR] | PERMISSIONS[Role.ANALYST] | PERMISSIONS[Role.READ_ONLY]
    )


@pytest.mark.parametrize("role", [*Role])
def test_role_is_limited_to_its_permissions(api_workspace: ApiWorkspace, role: Role) -> None:
    made = api_workspace.make("accounts", company="A", type="partner")
    account = made.headers["Location"]
    api_workspace.api.wait_until_projected(int(made.headers["Annals-Position"]))
    is_operator = role is Role.OPERATOR
    client = api_workspace.api.operator() if is_operator else api_workspace.client(role.value)
    requests_by_permission = {
        Permission.READ: [("GET", account), ("GET", "/api/accounts"), ("GET", "/api/workspace")],
        Permission.HISTORY: [
            ("GET", f"{account}/history"),
            ("GET", f"{account}?asOf=1"),
            ("GET", "/api/accounts?asOf=2199-01-01"),
        ],
        Permission.WRITE: [("PATCH", account), ("POST", f"{account}/restore")],
        Permission.MEMBERS: [("POST", "/api/members")],
        Permission.AUDIT: [("GET", "/api/audit")],
        Permission.KEYS: [("GET", "/api/keys"), ("POST", "/api/keys")],
        Permission.WORKSPACE: [("PATCH", "/api/workspace")],
        Permission.PROJECTIONS: [("GET", "/api/projections"), ("GET", "/api/projections/notes")],
        Permission.VERIFY: [("GET", "/api/log/verifications")],
        Permission.OPERATE: [("POST", "/api/projections/notes/rebuild")],
    }
    assert set(requests_by_permission) == set(Permission)
    bodies = {
        "/api/keys": {"name": "k", "role": "member"},
        account: {"nextAction": "Call"},
        "/api/projections/notes/rebuild": {"plan": True},
    }
    for permission, requests in requests_by_permission.items():
        for method, url in requests:
            given = None if method == "GET" else bodies.get(url, {"name": "N"})
            response = client.request(method, url, json=given)
            if permission in PERMISSIONS[role]:
                assert response.is_success, (method, url, response.text)
            else:
                code = "E1022" if permission is Permission.OPERATE else "E1008"
                code = "E1021" if is_operator else code
                assert (response.status_code, response.json()["code"]) == (403, code)
                assert is_operator or response.json()["permission"] == permission.value
                assert response.json()["role"] == role.value


def test_no_operation_reveals_another_workspace(api: Api) -> None:
    owner, stranger = api.new_workspace(), api.new_workspace()
    account = owner.account(company="Secretive Ltd")
    ids = {"accounts": account, "members": owner.make("members", name="S").json()["id"]}
    for plural, fields in (
        ("contacts", {"name": "Secretive Sam"}),
        ("tasks", {"title": "Secretive"}),
        ("meetings", {"title": "Secretive"}),
        ("notes", {"body": "Secretive"}),
        ("opportunities", {"name": "Secretive"}),
    ):
        ids[plural] = owner.make(plural, accountId=account, **fields).json()["id"]
    ids["keys"] = owner.client().get("/api/keys").json()["items"][0]["id"]
    before = owner.client("auditor").get("/api/audit").json()["items"]
    mine = stranger.client()
    walked = 0
    for method, path, operation in operations(api):
        if operation["operationId"] in PUBLIC | STREAMS:
            continue
        walked += 1
        url = path.replace("{id}", ids.get(path.split("/")[2], ID))
        body = example_request(operation)
        if "accountId" in body.get("json", {}):
            body["json"] = {**body["json"], "accountId": account}
        for query in ("", "?asOf=1", "?asOf=2199-01-01"):
            if query and "asOf" not in {each["name"] for each in operation.get("parameters", ())}:
                continue
            response = mine.request(method, url + query, **body)
            if response.status_code == 403:
                assert response.json()["code"] == "E1022", "for operators only"
            elif "{id}" in path:
                assert response.status_code in (400, 404), (method, url + query, response.text)
                assert response.status_code == 404 or query == "?asOf=1"
            elif "accountId" in body.get("json", {}):
                assert (response.status_code, response.json()["code"]) == (422, "E5005")
            assert "ecretive" not in response.text
            text = response.text.replace(account, "", 1) if response.is_error else response.text
            shown = [each for each in ids.values() if each in text and response.is_success]
            assert shown == [], (method, url)
    assert walked >= 55
    assert owner.client("auditor").get("/api/audit").json()["items"] == before


def test_key_for_a_member_of_another_workspace_is_422(api: Api) -> None:
    stranger = api.new_workspace().make("members", name="S").json()["id"]
    refused = (
        api.new_workspace()
        .client()
        .post("/api/keys", json={"name": "k", "role": "member", "memberId": stranger})
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "E5006")


def test_key_is_shown_once_and_unusable_after_revocation(api_workspace: ApiWorkspace) -> None:
    admin = api_workspace.client()
    issued = created(admin.post("/api/keys", json={"name": "Sync", "role": "member"}))
    assert issued.headers["ETag"].startswith('"1-')
    key = issued.json()
    client = api_workspace.api.client(key["token"])
    assert client.get("/api/accounts").status_code == 200
    listed = admin.get("/api/keys", headers=after(issued))
    assert key["id"] in {each["id"] for each in listed.json()["items"]}
    assert key["token"] not in listed.text
    assert "secret" not in listed.text.lower()
    revoked = admin.delete(f"/api/keys/{key['id']}", headers={"If-Match": '"1"'})
    assert revoked.status_code == 204
    refused = client.get("/api/accounts")
    assert (refused.status_code, refused.json()["code"]) == (401, "E1005")
    listed = admin.get("/api/keys", headers=after(revoked))
    assert key["id"] not in {each["id"] for each in listed.json()["items"]}
    assert admin.delete(f"/api/keys/{uuid4()}").json()["code"] == "E5002"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"role": "member"}, "E2001"),
        ({"name": "k", "role": "owner"}, "E2006"),
        ({"name": "k", "role": "member", "secretSha256": "0" * 64}, "E2005"),
        ({"name": "k", "role": "member", "assignedTo": ID}, "E2005"),
        ({"name": "k", "role": "member", "expiresAt": "2026-01-31"}, "E2009"),
    ],
)
def test_key_with_invalid_fields_is_422(
    api_workspace: ApiWorkspace, fields: dict[str, str], code: str
) -> None:
    refused = api_workspace.client().post("/api/keys", json=fields)
    assert (refused.status_code, refused.json()["code"]) == (422, code), refused.text


def test_workspace_is_the_one_of_the_key(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    changed = client.patch("/api/workspace", json={"name": "Renamed"}, headers={"If-Match": '"1"'})
    assert changed.headers["ETag"].startswith('"2-')
    found = client.get("/api/workspace", headers=after(changed))
    assert found.json()["id"] == str(api_workspace.workspace_id)
    assert found.json()["name"] == "Renamed"
    stale = client.patch("/api/workspace", json={"name": "X"}, headers={"If-Match": '"1"'})
    assert stale.json()["code"] == "E5008"
