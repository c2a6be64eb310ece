"""The audit trail and the projections over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from projections.engine.registry import PROJECTIONS
from tests.support.api_server import Api, ApiWorkspace, after


@pytest.fixture(scope="module")
def busy(api: Api) -> ApiWorkspace:
    """A workspace in which an account was created, changed twice, deleted and restored."""
    api_workspace = api.new_workspace()
    url = f"/api/accounts/{api_workspace.account()}"
    client = api_workspace.client()
    client.patch(url, json={"nextAction": "Call"})
    client.patch(url, json={"status": "active"})
    client.delete(url)
    last = client.post(f"{url}/restore")
    api.wait_until_projected(int(last.headers["Annals-Position"]))
    return api_workspace


def actions(api_workspace: ApiWorkspace, **parameters: Any) -> list[str]:
    response = api_workspace.client().get("/api/audit", params=parameters)
    assert response.status_code == 200, response.text
    return [each["action"] for each in response.json()["items"]]


def test_audit_trail_is_listed_newest_first(busy: ApiWorkspace) -> None:
    expected = ["restore", "delete", "status_change", "update", "create"]
    assert actions(busy, entityType="account") == expected


def test_audit_trail_is_filtered(busy: ApiWorkspace) -> None:
    client = busy.client()
    (account,) = client.get("/api/accounts").json()["items"]
    (first, *_) = client.get("/api/audit", params={"entityType": "account"}).json()["items"]
    assert actions(busy, entityType="account", action="update") == ["update"]
    assert len(actions(busy, entityId=account["id"])) == 5
    assert actions(busy, actorId=first["actor"]["id"], action="delete") == ["delete"]
    assert actions(busy, actorId="unknown") == []
    assert len(actions(busy, since="2020-01-01", until="2199-01-01", entityType="account")) == 5
    assert actions(busy, until="2020-01-01") == []
    assert actions(busy, since="2199-01-01") == []


@pytest.mark.parametrize("path", ["/api/audit", "/api/audit/export"])
def test_times_of_every_zone_are_compared(busy: ApiWorkspace, path: str) -> None:
    """PostgreSQL refuses zones of 16 hours and more, which ISO 8601 and Python allow."""
    client = busy.client()
    parameters = {"since": "1973-11-14T01:58:47-21:02", "entityType": "account"}
    response = client.get(path, params=parameters)
    assert response.status_code == 200
    assert response.content.count(b"account.created") == 1
    refused = client.get(path, params={"until": "9999-12-31T23:59:59-23:59"})
    assert (refused.status_code, refused.json()["code"]) == (400, "E2031")


def test_cursor_walks_the_audit_trail(busy: ApiWorkspace) -> None:
    found, cursor = [], None
    while True:
        given: dict[str, Any] = {"pageSize": 2, "entityType": "account"}
        if cursor is not None:
            given["cursor"] = cursor
        page = busy.client().get("/api/audit", params=given).json()
        found += [each["action"] for each in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert found == ["restore", "delete", "status_change", "update", "create"]


@pytest.mark.parametrize(
    "query",
    [
        "entityType=spaceship",
        "entityId=7",
        "action=steal",
        "since=yesterday",
        "until=2026-01-31T00:00:00",
        "cursor=x",
        "pageSize=501",
        "actorId=a%00b",
    ],
)
def test_invalid_filter_is_400(busy: ApiWorkspace, query: str) -> None:
    refused = busy.client().get(f"/api/audit?{query}")
    assert (refused.status_code, refused.json()["code"]) == (400, "E2031")


def test_projections_report_their_positions(busy: ApiWorkspace) -> None:
    items = busy.api.operator().get("/api/projections").json()["items"]
    assert {each["name"] for each in items} == set(PROJECTIONS)
    assert {"version", "state", "position", "lagEvents", "lagSeconds"} <= set(items[0])


def test_health_needs_no_key(api: Api) -> None:
    assert api.client().get("/livez").json() == {"status": "live"}
    healthy = api.client().get("/healthz").json()
    assert healthy["status"] == "ok", healthy
    assert {each["name"] for each in healthy["projections"]} == set(PROJECTIONS)
    ready = api.client().get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"


def test_read_waits_for_the_position_of_a_write(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    for number in range(20):
        response = client.post("/api/accounts", json={"company": f"C{number}", "type": "partner"})
        page = client.get("/api/accounts", headers=after(response)).json()
        assert page["pagination"]["totalItems"] == number + 1


def test_read_of_a_future_position_is_503(api_workspace: ApiWorkspace) -> None:
    url = f"/api/accounts/{api_workspace.account()}"
    refused = api_workspace.client().get(url, headers={"Annals-Min-Position": str(2**62)})
    assert (refused.status_code, refused.json()["code"]) == (503, "E3003")
    assert refused.headers["Retry-After"] == "1"


@pytest.mark.parametrize("position", ["", "-1", "1.5", "x", "٣", str(2**62 + 1), "9" * 40])
def test_invalid_position_is_400(api_workspace: ApiWorkspace, position: str) -> None:
    headers = [(b"Annals-Min-Position", position.encode())]
    for path in ("/api/accounts", "/api/keys", "/api/audit", "/api/workspace", "/api/projections"):
        refused = api_workspace.client().get(path, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (400, "E2034"), path
