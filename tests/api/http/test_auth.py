"""Who is let in, what each role may do, and that nobody sees another workspace."""

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
    *("listErrors", "getError", "liveness", "health", "readiness", "metrics"),
    "receiveSmsReceipt",
}
"""Those that need no key; the last one wants a signature."""
STREAMS = {"followChanges"}
"""These do not end; that they tell of no other workspace is tested in test_realtime."""


def operations(api: Api) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of everything that the API serves."""
    for path, methods in api.app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def request_of(operation: dict[str, Any]) -> dict[str, Any]:
    """A request as the description's own example has it."""
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
def test_nobody_comes_in_without_a_key(api: Api, authorization: str | None, code: str) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    client = api.client()
    for method, path, operation in operations(api):
        if operation["operationId"] in PUBLIC:
            continue
        refused = client.request(
            method, path.replace("{id}", ID), headers=headers, **request_of(operation)
        )
        assert (refused.status_code, refused.json()["code"]) == (401, code), path
        assert refused.headers["WWW-Authenticate"].startswith("Bearer ")
        if code == "E1003" or method == "POST":
            continue
        return  # the refusal is the same everywhere


def test_the_wrong_secret_is_as_unknown_as_the_wrong_key(api_workspace: ApiWorkspace) -> None:
    token = api_workspace.token("admin")
    refused = api_workspace.api.client(token[:-1] + ("a" if token[-1] != "a" else "b")).get(
        "/api/keys"
    )
    assert (refused.status_code, refused.json()["code"]) == (401, "E1005")


def test_a_key_expires(api_workspace: ApiWorkspace) -> None:
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    future = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    refused = api_workspace.api.client(api_workspace.token("admin", expiresAt=past)).get(
        "/api/workspace"
    )
    assert (refused.status_code, refused.json()["code"]) == (401, "E1006")
    client = api_workspace.api.client(api_workspace.token("admin", expiresAt=future))
    assert client.get("/api/workspace").status_code == 200


def test_what_a_member_does_with_a_key_is_the_members_doing(api_workspace: ApiWorkspace) -> None:
    member = api_workspace.make("members", name="Grace Hopper").json()["id"]
    client = api_workspace.api.client(api_workspace.token("member", memberId=member))
    account = created(client.post("/api/accounts", json={"company": "A", "type": "partner"}))
    (entry,) = client.get(f"{account.headers['Location']}/history").json()["items"]
    assert entry["actor"] == {"type": "member", "id": member, "name": "Grace Hopper"}


def test_a_member_who_left_comes_in_no_more(api_workspace: ApiWorkspace) -> None:
    member = api_workspace.make("members", name="Grace Hopper").headers["Location"]
    client = api_workspace.api.client(
        api_workspace.token("member", memberId=member.rpartition("/")[2])
    )
    assert client.get("/api/accounts").status_code == 200
    api_workspace.client().delete(member)
    time.sleep(KEY_CACHE_TTL_S)  # the promise is that no key works for longer
    refused = client.get("/api/accounts")
    assert (refused.status_code, refused.json()["code"]) == (401, "E1007")


def test_every_role_has_its_permissions() -> None:
    assert set(PERMISSIONS) == set(Role)
    assert PERMISSIONS[Role.ADMIN] == set(Permission)
    assert (
        Permission.WRITE
        not in PERMISSIONS[Role.AUDITOR] | PERMISSIONS[Role.ANALYST] | PERMISSIONS[Role.READ_ONLY]
    )


@pytest.mark.parametrize("role", Role)
def test_a_role_may_do_what_the_table_says(api_workspace: ApiWorkspace, role: Role) -> None:
    made = api_workspace.make("accounts", company="A", type="partner")
    account = made.headers["Location"]
    api_workspace.api.wait_until_projected(int(made.headers["Annals-Position"]))
    client = api_workspace.client(role.value)
    asked = {
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
        Permission.OPERATE: [("POST", "/api/projections/notes/rebuild")],
    }
    assert set(asked) == set(Permission)
    bodies = {
        "/api/keys": {"name": "k", "role": "member"},
        account: {"nextAction": "Call"},
        "/api/projections/notes/rebuild": {"plan": True},
    }
    for permission, requests in asked.items():
        for method, url in requests:
            given = None if method == "GET" else bodies.get(url, {"name": "N"})
            response = client.request(method, url, json=given)
            if permission in PERMISSIONS[role]:
                assert response.is_success, (method, url, response.text)
            else:
                assert (response.status_code, response.json()["code"]) == (403, "E1008")
                assert response.json()["permission"] == permission.value
                assert response.json()["role"] == role.value


def test_another_workspace_is_nowhere_to_be_seen(api: Api) -> None:
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
        body = request_of(operation)
        if "accountId" in body.get("json", {}):
            body["json"] = {**body["json"], "accountId": account}
        for query in ("", "?asOf=1", "?asOf=2199-01-01"):
            if query and "asOf" not in {each["name"] for each in operation.get("parameters", ())}:
                continue
            response = mine.request(method, url + query, **body)
            if "{id}" in path:
                assert response.status_code in (400, 404), (method, url + query, response.text)
                assert response.status_code == 404 or query == "?asOf=1"
            elif "accountId" in body.get("json", {}):
                assert (response.status_code, response.json()["code"]) == (422, "E5005")
            assert "ecretive" not in response.text
            told = response.text.replace(account, "", 1) if response.is_error else response.text
            shown = [each for each in ids.values() if each in told and response.is_success]
            assert shown == [], (method, url)
    assert walked >= 55
    assert owner.client("auditor").get("/api/audit").json()["items"] == before


def test_a_key_of_another_workspace_is_no_member_here(api: Api) -> None:
    stranger = api.new_workspace().make("members", name="S").json()["id"]
    refused = (
        api.new_workspace()
        .client()
        .post("/api/keys", json={"name": "k", "role": "member", "memberId": stranger})
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "E5006")


def test_a_key_is_issued_shown_once_and_revoked_for_good(api_workspace: ApiWorkspace) -> None:
    admin = api_workspace.client()
    issued = created(admin.post("/api/keys", json={"name": "Sync", "role": "member"}))
    assert issued.headers["ETag"] == '"1"'
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
def test_a_key_needs_a_name_and_a_role(
    api_workspace: ApiWorkspace, fields: dict[str, str], code: str
) -> None:
    refused = api_workspace.client().post("/api/keys", json=fields)
    assert (refused.status_code, refused.json()["code"]) == (422, code), refused.text


def test_the_workspace_is_the_one_of_the_key(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    changed = client.patch("/api/workspace", json={"name": "Renamed"}, headers={"If-Match": '"1"'})
    assert changed.headers["ETag"] == '"2"'
    found = client.get("/api/workspace", headers=after(changed))
    assert found.json()["id"] == str(api_workspace.workspace_id)
    assert found.json()["name"] == "Renamed"
    stale = client.patch("/api/workspace", json={"name": "X"}, headers={"If-Match": '"1"'})
    assert stale.json()["code"] == "E5008"
