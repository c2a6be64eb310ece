"""Operators and tenants, who did what by which key, and unknown keys."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from api.http.auth import KEY_CACHE_TTL_S, KEY_LOOKUPS_MAX, UNKNOWN_KEY_TTL_S
from commands.keys import parse_token
from domain.api_key import OPERATORS, ApiKey
from eventlog.scope import Scope
from runtime.composition import open_key_writing
from tests.support.api_server import Api, ApiWorkspace, after, created
from tests.support.keys import issue_operator_key

REQUESTS = 100
THREADS = 16
OPEN_TO_OPERATORS = {"getMe", "listErrors", "getError", "receiveSmsReceipt"}
"""Operations that need no workspace."""


def key_id_of(client: httpx.Client) -> str:
    """Return the id of the key that the client sends."""
    parsed = parse_token(client.headers["Authorization"].removeprefix("Bearer "))
    assert parsed is not None
    return str(parsed[0])


def test_operator_is_refused_by_every_route_of_a_tenant(api: Api) -> None:
    client, refused = api.operator(), 0
    for path, methods in api.app.openapi()["paths"].items():
        for method, operation in methods.items():
            if "operation" in operation["tags"] or operation["operationId"] in OPEN_TO_OPERATORS:
                continue
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            body = {} if content is None else {"json": content["example"]}
            response = client.request(method, re.sub(r"\{\w+\}", str(uuid4()), path), **body)
            assert (response.status_code, response.json()["code"]) == (403, "E1021"), path
            refused += 1
    assert refused > 60


def test_me_shows_who_the_caller_is(api_workspace: ApiWorkspace) -> None:
    member = api_workspace.make("members", name="Grace Hopper").json()["id"]
    client = api_workspace.api.client(
        api_workspace.token("member", memberId=member, expiresAt="2199-01-01T00:00:00Z")
    )
    assert client.get("/api/me").json() == {
        "keyId": key_id_of(client),
        "name": "member key",
        "role": "member",
        "permissions": ["history", "read", "write"],
        "expiresAt": "2199-01-01T00:00:00+00:00",
        "workspace": {"id": str(api_workspace.workspace_id), "name": "Office"},
        "member": {"id": member, "name": "Grace Hopper"},
    }
    assert api_workspace.client("read-only").get("/api/me").json()["member"] is None
    operator = api_workspace.api.operator().get("/api/me").json()
    assert (operator["role"], operator["workspace"]) == ("operator", None)
    assert operator["permissions"] == ["operate", "projections", "verify"]
    refused = api_workspace.api.client().get("/api/me")
    assert (refused.status_code, refused.json()["code"]) == (401, "E1003")


def test_admin_cannot_issue_an_operator_key(api_workspace: ApiWorkspace) -> None:
    refused = api_workspace.client().post("/api/keys", json={"name": "k", "role": "operator"})
    assert (refused.status_code, refused.json()["code"]) == (422, "E2006")


def test_operator_key_stops_working_when_it_is_revoked(api: Api) -> None:
    issued = issue_operator_key(str(api.settings.owner_url))
    api.wait_until_projected(issued.outcome.position)
    client = api.client(issued.token)
    assert client.get("/api/projections").status_code == 200
    with open_key_writing(api.settings) as writing:
        scope = Scope(OPERATORS, command="revoke_key")
        revoked = writing.commands.delete(scope, ApiKey, issued.outcome.entity.id)
    api.wait_until_projected(revoked.position)
    time.sleep(KEY_CACHE_TTL_S)  # no key works for longer than this after its revocation
    assert client.get("/api/projections").status_code == 401


def test_events_name_the_key_and_the_member_who_acts_by_it(api_workspace: ApiWorkspace) -> None:
    member = api_workspace.make("members", name="Grace Hopper").json()["id"]
    of_member = api_workspace.api.client(api_workspace.token("member", memberId=member))
    plain = api_workspace.client("member")
    account = {"company": "A", "type": "partner"}
    wrote = [created(each.post("/api/accounts", json=account)) for each in (of_member, plain)]
    auditor = api_workspace.client("auditor")
    first, second = (
        auditor.get(
            "/api/audit", params={"entityId": each.json()["id"]}, headers=after(each)
        ).json()["items"][0]
        for each in wrote
    )
    assert (first["actor"]["id"], first["keyId"]) == (member, key_id_of(of_member))
    assert (second["actor"]["type"], second["keyId"]) == ("api_key", key_id_of(plain))
    mine = auditor.get("/api/audit", params={"keyId": key_id_of(of_member)}).json()["items"]
    assert [each["entityId"] for each in mine] == [wrote[0].json()["id"]]
    exported = auditor.get("/api/audit/export", params={"keyId": key_id_of(of_member)}).text
    assert exported.count(key_id_of(of_member)) == 1
    refused = auditor.get("/api/audit", params={"keyId": "x"})
    assert refused.status_code == 400
    history = of_member.get(f"/api/accounts/{wrote[0].json()['id']}/history").json()["items"]
    assert [each["keyId"] for each in history] == [key_id_of(of_member)]


def test_event_without_a_key_has_none(api_workspace: ApiWorkspace) -> None:
    items = api_workspace.client("auditor").get("/api/audit?entityType=workspace").json()["items"]
    assert [each["keyId"] for each in items] == [None], "the workspace was created without a key"


def test_history_of_a_member_shows_the_keys_issued_for_the_member(
    api_workspace: ApiWorkspace,
) -> None:
    made = api_workspace.make("members", name="Grace Hopper")
    admin, other = api_workspace.client(), api_workspace.make("members", name="Ada").json()["id"]
    given = {"name": "Laptop", "role": "member"}
    key = created(admin.post("/api/keys", json={**given, "memberId": made.json()["id"]})).json()
    created(admin.post("/api/keys", json={**given, "memberId": other}))
    admin.delete(f"/api/keys/{key['id']}")
    url = f"{made.headers['Location']}/history"
    items = admin.get(url).json()["items"]
    assert [each["topic"] for each in items] == [
        "member.created",
        "api_key.issued",
        "api_key.revoked",
    ]
    assert [each["entityId"] for each in items] == [made.json()["id"], key["id"], key["id"]]
    assert {each["keyId"] for each in items} == {key_id_of(admin)}
    assert "ecret" not in admin.get(url).text
    paged: list[dict[str, Any]] = []
    cursor: int | None = 0
    while cursor is not None:
        page = admin.get(url, params={"pageSize": 1, "cursor": cursor}).json()
        paged, cursor = [*paged, *page["items"]], page["nextCursor"]
    assert paged == items


@pytest.mark.parametrize("headers", [{"Via": "1.1 proxy"}, {"X-Forwarded-For": "192.0.2.1"}])
def test_details_of_health_and_metrics_are_for_operators(
    api: Api, api_workspace: ApiWorkspace, headers: dict[str, str]
) -> None:
    for client in (api.client(), api_workspace.client()):
        assert set(client.get("/healthz", headers=headers).json()) == {"status"}
        assert set(client.get("/readyz", headers=headers).json()) == {"status"}
        refused = client.get("/metrics", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "E1009")
    operator = api.operator()
    assert "projections" in operator.get("/healthz", headers=headers).json()
    assert "lagSeconds" in operator.get("/readyz", headers=headers).json()
    assert operator.get("/metrics", headers=headers).status_code == 200


def refused_requests(api: Api, tokens: list[str]) -> tuple[int, int]:
    """Send a request with each token; each is refused.

    Returns how many connections were taken from the pool for reading, and how many at once at most.
    """
    client, reads = api.client(), api.app.state.services.reads
    before, most = reads.statistics()["requests_num"], 0

    def send(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return client.get("/api/me", headers=headers).status_code

    with ThreadPoolExecutor(THREADS) as threads:
        sent = [threads.submit(send, token) for token in tokens]
        while not all(each.done() for each in sent):
            taken = reads.statistics()
            most = max(most, taken["pool_size"] - taken["pool_available"])
        assert {each.result() for each in sent} == {401}
    return reads.statistics()["requests_num"] - before, most


def test_unknown_key_is_looked_up_once_and_remembered(api: Api) -> None:
    token = f"annals_{uuid4().hex}_secret"
    started = time.monotonic()
    lookups, _ = refused_requests(api, [token] * REQUESTS)
    periods = 1 + int((time.monotonic() - started) / UNKNOWN_KEY_TTL_S)
    assert lookups <= KEY_LOOKUPS_MAX * periods
    assert lookups < REQUESTS / 2


def test_different_unknown_keys_take_few_connections_at_once(api: Api) -> None:
    lookups, most = refused_requests(api, [f"annals_{uuid4().hex}_secret" for _ in range(REQUESTS)])
    assert lookups == REQUESTS
    assert most <= KEY_LOOKUPS_MAX


def test_issued_key_works_at_once_although_its_id_was_unknown(api: Api) -> None:
    workspace = api.new_workspace()
    key = created(workspace.client().post("/api/keys", json={"name": "k", "role": "member"}))
    unknown = api.client(f"annals_{uuid4().hex}_secret")
    assert unknown.get("/api/me").status_code == 401
    assert api.client(key.json()["token"]).get("/api/me").status_code == 200
