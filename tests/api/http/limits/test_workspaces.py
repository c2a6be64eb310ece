"""One workspace takes no more than its share: two workspaces on one API, over sockets."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from websockets.exceptions import InvalidStatus

from commands.bulk import INLINE_ITEMS_MAX
from commands.jobs.requests import JobCommands
from eventlog.clock import local_time
from eventlog.scope import Scope
from runtime.composition import new_id
from server.postgres.embedded import Cluster
from tests.support.api_server import Api, ApiWorkspace, running_api
from tests.support.databases import Urls, fresh_database
from tests.support.realtime_client import open_stream, open_websocket, websocket_events
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=8)

LIMITS: dict[str, Any] = {
    "exports_max": 2,
    "exports_per_workspace_max": 1,
    "job_followers_max": 3,
    "job_followers_per_workspace_max": 2,
    "jobs_per_workspace_max": 2,
    "realtime_subscribers_max": 3,
    "realtime_subscribers_per_workspace_max": 2,
}
UNKNOWN_KIND = "of a later version"
"""A kind of job that no worker knows, so that the job stays open."""
WAITING_EXPORTS = """
SELECT count(*) FROM pg_stat_activity
 WHERE application_name = 'annals-export' AND wait_event_type = 'Lock'
"""


@pytest.fixture(scope="module")
def urls(cluster: Cluster, template: str) -> Iterator[Urls]:
    """A database for this module."""
    with fresh_database(cluster, template) as urls:
        yield urls


@pytest.fixture(scope="module")
def api(urls: Urls) -> Iterator[Api]:
    """An API with small limits."""
    with running_api(urls.owner, urls.app, urls.projector, **LIMITS) as running:
        yield running


@pytest.fixture
def greedy(api: Api) -> ApiWorkspace:
    """A workspace that takes all that it gets."""
    return api.new_workspace()


@pytest.fixture
def other(api: Api) -> ApiWorkspace:
    """Another workspace."""
    return api.new_workspace()


def assert_refused(response: httpx.Response, status: int, code: str) -> None:
    """Assert that a limit refuses the request, and says when to repeat it."""
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert int(response.headers["Retry-After"]) >= 1


def request_job(api_workspace: ApiWorkspace) -> UUID:
    """Request a job that stays open; return its id."""
    jobs = JobCommands(api_workspace.api.writing.log, clock=local_time, new_id=new_id)
    requested = jobs.request(Scope(api_workspace.workspace_id), UNKNOWN_KIND, {}, total=1)
    api_workspace.api.wait_until_projected(requested.position)
    return requested.job.id


def test_exports_of_one_workspace_leave_room_for_others(
    greedy: ApiWorkspace, other: ApiWorkspace, urls: Urls
) -> None:
    client, path = greedy.client(), "/api/notes/export"
    other.client()
    with ThreadPoolExecutor(1) as pool, psycopg.connect(urls.superuser) as blocker:
        blocker.execute("LOCK TABLE read.notes IN ACCESS EXCLUSIVE MODE")
        first = pool.submit(client.get, path, timeout=None)
        with psycopg.connect(urls.superuser, autocommit=True) as observer:
            wait_until(
                lambda: observer.execute(WAITING_EXPORTS).fetchall() == [(1,)], "it is exported"
            )
        assert_refused(greedy.client("member").get(path), 429, "E2081")
        assert other.client().get("/api/accounts/export").status_code == 200
        blocker.rollback()
        assert first.result().status_code == 200
    assert client.get(path).status_code == 200


def test_streams_of_changes_of_one_workspace_leave_room_for_others(
    greedy: ApiWorkspace, other: ApiWorkspace
) -> None:
    api = greedy.api
    with ExitStack() as held:
        # httpx closes a response whose iterator is collected, so the streams have names.
        first = held.enter_context(open_stream(greedy.client()))
        first.next("open")
        token = greedy.token("member")
        websocket_events(held.enter_context(open_websocket(api, token))).next("open")
        # Another key of the workspace takes no more than its share either.
        assert_refused(greedy.client("auditor").get("/api/realtime"), 429, "E2113")
        with pytest.raises(InvalidStatus) as refused:
            open_websocket(api, greedy.token("analyst"))
        assert refused.value.response.status_code == 429
        last = held.enter_context(open_stream(other.client()))
        last.next("open")
        # Now the process is full.
        assert_refused(other.client("member").get("/api/realtime"), 503, "E3010")

    def is_admitted() -> bool:
        with greedy.client().stream("GET", "/api/realtime") as response:
            return response.status_code == 200

    wait_until(is_admitted, "the streams that were closed are free again")


def test_streams_of_jobs_of_one_workspace_leave_room_for_others(
    greedy: ApiWorkspace, other: ApiWorkspace
) -> None:
    paths = [f"/api/jobs/{request_job(greedy)}/events" for _ in range(2)]
    path_of_other = f"/api/jobs/{request_job(other)}/events"

    streams: list[Iterator[str]] = []

    def follow(client: httpx.Client, path: str) -> None:
        response = held.enter_context(client.stream("GET", path))
        assert response.status_code == 200
        streams.append(response.iter_lines())
        assert next(streams[-1])

    with ExitStack() as held:
        for path in paths:
            follow(greedy.client(), path)
        assert_refused(greedy.client("member").get(paths[0]), 429, "E2052")
        follow(other.client(), path_of_other)
        assert_refused(other.client("member").get(path_of_other), 503, "E2051")

    def is_admitted() -> bool:
        with greedy.client().stream("GET", paths[0]) as response:
            return response.status_code == 200

    wait_until(is_admitted, "the streams that were closed are free again")


def test_refused_streams_of_jobs_take_no_place(greedy: ApiWorkspace) -> None:
    for _ in range(5):
        assert greedy.client().get(f"/api/jobs/{uuid4()}/events").status_code == 404
    job_id = request_job(greedy)
    with greedy.client().stream("GET", f"/api/jobs/{job_id}/events") as response:
        assert response.status_code == 200


def test_open_jobs_of_one_workspace_are_limited(greedy: ApiWorkspace, other: ApiWorkspace) -> None:
    opened = [request_job(greedy) for _ in range(2)]
    bulk = {
        "kind": "account",
        "ids": [str(uuid4()) for _ in range(INLINE_ITEMS_MAX + 1)],
        "change": {"delete": True},
    }
    refused = greedy.client().post("/api/bulk", json=bulk)
    assert_refused(refused, 429, "E5035")
    assert refused.json()["limit"] == 2
    assert other.client().post("/api/bulk", json=bulk).status_code == 202
    assert greedy.client().post(f"/api/jobs/{opened[0]}/cancel").status_code == 200
    assert greedy.client().post("/api/bulk", json=bulk).status_code == 202
