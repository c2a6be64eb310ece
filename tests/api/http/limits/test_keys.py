"""Limits of keys, workspaces and client addresses over HTTP, with small quotas."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock
from uuid import uuid4

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from api.http.limits.rates import RateCounter
from server.postgres.embedded import Cluster
from tests.support.api_server import Api, ApiWorkspace, running_api
from tests.support.databases import fresh_database
from tests.support.realtime_client import open_websocket
from tests.support.waiting import StoppedClock

pytestmark = pytest.mark.long(seconds=8)

CLOCK = StoppedClock()
READS, WRITES, BULK, STREAMS = 5, 4, 2, 3
WORKSPACE_KEYS = 2
FAILURES = 3
LIMITS: dict[str, Any] = {
    "rate_reads_per_minute": READS,
    "rate_writes_per_minute": WRITES,
    "rate_bulk_per_minute": BULK,
    "rate_streams_per_minute": STREAMS,
    "rate_workspace_keys": WORKSPACE_KEYS,
    "rate_by_role": "read-only.reads=2,auditor.reads=0",
    "rate_auth_failures_per_minute": FAILURES,
    "trusted_proxies": "127.0.0.1",  # so that a test can choose its client address
}


@pytest.fixture(scope="module")
def api(cluster: Cluster, template: str) -> Iterator[Api]:
    """An API with small quotas, whose time stands still unless a test moves it."""
    counter = partial(RateCounter, clock=CLOCK)
    with (
        fresh_database(cluster, template) as urls,
        mock.patch("api.dependencies.services.RateCounter", counter),
        running_api(urls.owner, urls.app, urls.projector, **LIMITS) as running,
    ):
        yield running


@pytest.fixture
def api_workspace(api: Api) -> ApiWorkspace:
    """A new workspace, whose keys have used nothing."""
    return api.new_workspace()


def refusal(response: httpx.Response) -> tuple[int, str, str]:
    """Return status, code and the quota that is used up."""
    document = response.json()
    return response.status_code, document["code"], document.get("policy", "")


def get(client: httpx.Client, times: int) -> list[int]:
    """Read a list some times; return the statuses."""
    return [client.get("/api/accounts").status_code for _ in range(times)]


def test_reads_beyond_the_quota_are_429_with_the_time_to_wait(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    first = client.get("/api/accounts")
    assert first.headers["RateLimit-Policy"] == (
        f'"reads";q={READS};w=60, "workspace-reads";q={READS * WORKSPACE_KEYS};w=60'
    )
    assert first.headers["RateLimit"] == (
        f'"reads";r={READS - 1};t=12, "workspace-reads";r={READS * WORKSPACE_KEYS - 1};t=6'
    )
    assert get(client, READS - 1) == [200] * (READS - 1)
    refused = client.get("/api/accounts")
    assert refusal(refused) == (429, "E4020", "reads")
    assert (refused.json()["limit"], refused.json()["windowSeconds"]) == (READS, 60)
    wait_s = int(refused.headers["Retry-After"])
    assert wait_s == 60 / READS
    assert refused.headers["RateLimit"] == f'"reads";r=0;t={wait_s}'
    assert "RateLimit-Policy" in refused.headers
    CLOCK.now_s += wait_s
    assert get(client, 2) == [200, 429]


def test_classes_have_quotas_of_their_own(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    assert get(client, READS + 1)[-1] == 429
    statuses = [
        client.post("/api/accounts", json={"company": "A", "type": "customer"}).status_code
        for _ in range(WRITES + 1)
    ]
    assert statuses == [201] * WRITES + [429]
    bulk = [client.post("/api/bulk", json={}) for _ in range(BULK + 1)]
    assert [each.status_code for each in bulk[:-1]] == [422] * BULK
    assert refusal(bulk[-1]) == (429, "E4020", "bulk")
    exports = [client.get("/api/accounts/export") for _ in range(STREAMS + 1)]
    assert [each.status_code for each in exports[:-1]] == [200] * STREAMS
    assert refusal(exports[-1]) == (429, "E4020", "streams")
    assert refusal(client.get("/api/realtime")) == (429, "E4020", "streams")
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(api_workspace.api, client.headers["Authorization"].split()[1])
    assert refused.value.response.status_code == 429


def test_more_keys_do_not_raise_the_quota_of_a_workspace(api_workspace: ApiWorkspace) -> None:
    api = api_workspace.api
    other = api.new_workspace()
    clients = [api.client(api_workspace.token("member")) for _ in range(WORKSPACE_KEYS + 1)]
    for client in clients[:-1]:
        assert get(client, READS) == [200] * READS
    assert refusal(clients[-1].get("/api/accounts")) == (429, "E4020", "workspace-reads")
    assert get(other.client(), READS) == [200] * READS


def test_roles_may_have_other_quotas(api_workspace: ApiWorkspace) -> None:
    reader = api_workspace.client("read-only")
    assert get(reader, 3) == [200, 200, 429]
    # This role has no limit of its own, so that of its workspace counts.
    auditor = api_workspace.client("auditor")
    assert get(auditor, READS * WORKSPACE_KEYS - 2) == [200] * (READS * WORKSPACE_KEYS - 2)
    assert refusal(auditor.get("/api/accounts")) == (429, "E4020", "workspace-reads")


def test_failed_authentications_of_an_address_are_limited(api_workspace: ApiWorkspace) -> None:
    api = api_workspace.api
    known, unknown = api_workspace.token("admin"), api_workspace.token("admin")
    # Each run has networks of its own, because the time of the counters stands still.
    network = f"2001:db8:{uuid4().hex[:4]}:{uuid4().hex[:4]}"
    attacker = {"X-Forwarded-For": f"{network}::7"}
    assert api.client(known).get("/api/workspace", headers=attacker).status_code == 200

    def attempt(token: str, address: dict[str, str]) -> httpx.Response:
        return api.client(token).get("/api/workspace", headers=address)

    for _ in range(FAILURES):
        invented = f"annals_{uuid4().hex}_secret"
        assert refusal(attempt(invented, attacker)) == (401, "E1005", "")
    for token in (f"annals_{uuid4().hex}_secret", "nonsense", f"{known}x", unknown):
        refused = attempt(token, attacker)
        assert refusal(refused) == (429, "E1030", "")
        assert int(refused.headers["Retry-After"]) == 60 / FAILURES
    assert attempt("nonsense", {"X-Forwarded-For": f"{network}::8"}).status_code == 429
    # A key that was authenticated before works on, and so does every key from elsewhere.
    assert attempt(known, attacker).status_code == 200
    assert attempt(unknown, {"X-Forwarded-For": "203.0.113.8"}).status_code == 200


def test_refusals_are_counted(api_workspace: ApiWorkspace) -> None:
    def counted(quota: str) -> float:
        series = f'annals_http_limited_total{{code="E4020",quota="{quota}"}} '
        shown = api_workspace.api.client().get("/metrics").text
        lines = [line for line in shown.splitlines() if line.startswith(series)]
        return float(lines[0].removeprefix(series)) if lines else 0.0

    before = counted("writes")
    client = api_workspace.client()
    for _ in range(WRITES + 2):
        client.patch("/api/workspace", json={"name": "Office"})
    assert counted("writes") == before + 2


def test_requests_without_a_key_have_no_quota(api: Api) -> None:
    for _ in range(READS * WORKSPACE_KEYS + 1):
        shown = api.client().get("/livez")
        assert shown.status_code == 200
        assert "RateLimit" not in shown.headers
        assert api.client().get("/api/accounts").status_code == 401
