"""/api/jobs over HTTP: lists, errors, cancelling, and progress as server-sent events."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest

from api.http import sse
from api.jobs import feed as job_feed
from commands.jobs.requests import JobCommands
from domain.job import ItemError, Job, JobStep
from eventlog.clock import local_time
from eventlog.scope import Actor, Scope
from readmodels.cursors import encode_cursor
from runtime.composition import new_id
from tests.support.api_server import ApiWorkspace, after, running_api
from tests.support.databases import Urls
from tests.support.waiting import TIMEOUT_S

UNKNOWN_KIND = "of a later version"
"""A kind that no worker knows; such jobs stay waiting."""


@pytest.fixture(autouse=True)
def cancel_remaining_jobs(api_workspace: ApiWorkspace) -> Iterator[None]:
    """Cancel the jobs that no worker takes: they would degrade the health of the shared API."""
    yield
    for each in api_workspace.client().get("/api/jobs").json()["items"]:
        if each["endedAt"] is None:
            api_workspace.client().post(f"/api/jobs/{each['id']}/cancel")


def scope_of(api_workspace: ApiWorkspace) -> Scope:
    return Scope(api_workspace.workspace_id, Actor("member", "ada", "Ada"), command_id=str(uuid4()))


def request_job(api_workspace: ApiWorkspace, kind: str = UNKNOWN_KIND) -> str:
    """Request a job that no worker takes, and return its id."""
    jobs = JobCommands(api_workspace.api.writing.log, clock=local_time, new_id=new_id)
    requested = jobs.request(scope_of(api_workspace), kind, {"a": 1}, total=10)
    api_workspace.api.wait_until_projected(requested.position)
    return str(requested.job.id)


def advance(api_workspace: ApiWorkspace, job_id: str, *steps: JobStep) -> int:
    """Record steps without doing any work, and return the position."""
    log, position = api_workspace.api.writing.log, None
    with log.transaction(scope_of(api_workspace)):
        job = log.load(Job, UUID(job_id))
        job.start(at=local_time())
        for step in steps:
            job.progress(step, at=local_time())
        position = log.append(job)
    assert position is not None
    api_workspace.api.wait_until_projected(position)
    return position


def test_job_shows_its_progress(api_workspace: ApiWorkspace) -> None:
    job_id = request_job(api_workspace)
    shown = api_workspace.client().get(f"/api/jobs/{job_id}").json()
    assert (shown["status"], shown["kind"], shown["total"]) == ("waiting", UNKNOWN_KIND, 10)
    assert (shown["startedAt"], shown["endedAt"], shown["errors"]) == (None, None, [])
    errors = [ItemError(row, "No.", "E5003", {"id": str(row)}) for row in range(2, 5)]
    advance(api_workspace, job_id, JobStep(4, 1, 3, errors, counts={"changed": 1}))
    shown = api_workspace.client().get(f"/api/jobs/{job_id}").json()
    assert (shown["status"], shown["processed"]) == ("running", 4)
    assert (shown["succeeded"], shown["failed"], shown["errorsTotal"]) == (1, 3, 3)
    assert shown["errors"] == [each.shown() for each in errors]
    assert shown["counts"] == {"changed": 1}
    assert shown["requestedBy"] == {"type": "member", "id": "ada", "name": "Ada"}
    advance(api_workspace, job_id, JobStep(10, 6, done=True))
    shown = api_workspace.client().get(f"/api/jobs/{job_id}").json()
    assert (shown["status"], shown["processed"], shown["endedAt"]) == (
        "completed",
        10,
        shown["updatedAt"],
    )


def test_jobs_are_listed_newest_first_and_filtered(api_workspace: ApiWorkspace) -> None:
    ids = [request_job(api_workspace) for _ in range(5)]
    advance(api_workspace, ids[0], JobStep(10, 10, done=True))
    client = api_workspace.client()

    def list_ids(**query: Any) -> list[str]:
        return [each["id"] for each in client.get("/api/jobs", params=query).json()["items"]]

    assert list_ids() == ids[::-1]
    assert list_ids(status="completed") == ids[:1]
    assert list_ids(status="waiting") == ids[:0:-1]
    assert list_ids(kind="bulk") == []
    assert "errors" not in client.get("/api/jobs").json()["items"][0]
    walked, cursor = [], None
    for _ in range(4):
        query = {"pageSize": 2, **({"cursor": cursor} if cursor else {})}
        page = client.get("/api/jobs", params=query).json()
        walked += [each["id"] for each in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert (walked, cursor) == (ids[::-1], None)
    for cursor in ("AAAA", "W10=", "WzEsMl0="):
        refused = client.get("/api/jobs", params={"cursor": cursor})
        assert (refused.status_code, refused.json()["code"]) == (400, "E2032")
    # PostgreSQL refuses zones of 16 hours and more, which Python allows.
    for at, status in (("2199-01-01T00:00:00+16:00", 200), ("9999-12-31T23:59:59-23:59", 400)):
        cursor = encode_cursor(orjson.dumps([at, ids[0]]))
        assert client.get("/api/jobs", params={"cursor": cursor}).status_code == status


def test_all_errors_of_a_job_are_read_page_by_page(api_workspace: ApiWorkspace) -> None:
    ids = [str(uuid4()) for _ in range(205)]
    answer = api_workspace.client().post(
        "/api/bulk", json={"kind": "contact", "ids": ids, "change": {"delete": True}}
    )
    location = answer.headers["Location"]
    last = list(follow(api_workspace, location))[-1]
    assert (last.event, last.data["errorsTotal"], len(last.data["errors"])) == ("end", 205, 100)
    walked: list[Any] = []
    cursor: int | None = 0
    while cursor is not None:
        query = {"cursor": cursor, "pageSize": 80}
        page = api_workspace.client().get(f"{location}/errors", params=query).json()
        walked += page["items"]
        cursor = page["nextCursor"]
    assert [each["row"] for each in walked] == list(range(1, 206))
    assert [each["id"] for each in walked] == ids
    assert {each["code"] for each in walked} == {"E5002"}
    assert walked[:100] == last.data["errors"]


def test_waiting_job_is_cancelled_and_ended_job_is_409(api_workspace: ApiWorkspace) -> None:
    job_id = request_job(api_workspace)
    client = api_workspace.client()
    cancelled = client.post(f"/api/jobs/{job_id}/cancel", headers={"Idempotency-Key": "k"})
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    repeated = client.post(f"/api/jobs/{job_id}/cancel", headers={"Idempotency-Key": "k"})
    assert repeated.headers["Idempotent-Replayed"] == "true"
    assert client.post(f"/api/jobs/{job_id}/cancel").status_code == 200
    shown = client.get(f"/api/jobs/{job_id}", headers=after(cancelled)).json()
    assert (shown["status"], shown["version"]) == ("cancelled", 2)
    done = request_job(api_workspace)
    advance(api_workspace, done, JobStep(10, 10, done=True))
    refused = client.post(f"/api/jobs/{done}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "E5030")
    assert (refused.json()["jobId"], refused.json()["endedAs"]) == (done, "completed")
    assert client.post(f"/api/jobs/{uuid4()}/cancel").status_code == 404
    assert api_workspace.client("read-only").post(f"/api/jobs/{done}/cancel").status_code == 403


def test_job_of_another_workspace_is_404(api_workspace: ApiWorkspace) -> None:
    job_id = request_job(api_workspace)
    stranger = api_workspace.api.new_workspace().client()
    assert stranger.get("/api/jobs").json()["items"] == []
    for path in ("", "/errors", "/events"):
        assert stranger.get(f"/api/jobs/{job_id}{path}").status_code == 404
    assert stranger.post(f"/api/jobs/{job_id}/cancel").status_code == 404
    assert api_workspace.client().get(f"/api/jobs/{job_id}").json()["status"] == "waiting"


# Server-sent events


class Event:
    """One server-sent event."""

    def __init__(self, lines: list[str]) -> None:
        fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
        self.event = fields.get("event")
        self.id = fields.get("id")
        self.data: Any = orjson.loads(fields["data"]) if "data" in fields else None
        self.is_heartbeat = any(line.startswith(": heartbeat") for line in lines)


@contextmanager
def streaming(
    api_workspace: ApiWorkspace, location: str, last_event_id: str | None = None
) -> Iterator[Iterator[Event]]:
    """Stream the events of a job as the server sends them."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    with api_workspace.client().stream(
        "GET", f"{location}/events", headers=headers, timeout=TIMEOUT_S
    ) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield _events(response)


def _events(response: httpx.Response) -> Iterator[Event]:
    lines: list[str] = []
    for line in response.iter_lines():
        if line:
            lines.append(line)
        elif lines:
            event = Event(lines)
            lines = []
            if event.event or event.is_heartbeat:
                yield event


def follow(
    api_workspace: ApiWorkspace, location: str, last_event_id: str | None = None
) -> list[Event]:
    """Return all events of a job, up to its end."""
    with streaming(api_workspace, location, last_event_id) as events:
        return list(events)


def test_progress_is_streamed_until_the_job_ends(api_workspace: ApiWorkspace) -> None:
    job_id = request_job(api_workspace)
    with streaming(api_workspace, f"/api/jobs/{job_id}") as events:
        first = next(events)
        assert (first.event, first.id, first.data["status"]) == ("progress", "1", "waiting")
        advance(api_workspace, job_id, JobStep(3, 3))
        second = next(events)
        assert (second.event, second.id, second.data["processed"]) == ("progress", "3", 3)
        advance(api_workspace, job_id, JobStep(10, 6, 1, done=True))
        rest = list(events)
    assert [each.event for each in rest] == ["end"]
    assert (rest[0].id, rest[0].data["status"], rest[0].data["failed"]) == ("5", "completed", 1)
    shown = api_workspace.client().get(f"/api/jobs/{job_id}").json()
    assert rest[0].data == shown


def test_resumed_stream_repeats_no_event(api_workspace: ApiWorkspace) -> None:
    job_id = request_job(api_workspace)
    advance(api_workspace, job_id, JobStep(3, 3))
    with streaming(api_workspace, f"/api/jobs/{job_id}", "3") as events:
        advance(api_workspace, job_id, JobStep(4, 1))
        assert next(events).id == "4"
    api_workspace.client().post(f"/api/jobs/{job_id}/cancel")
    ended = follow(api_workspace, f"/api/jobs/{job_id}", "4")
    assert [(each.event, each.data["status"]) for each in ended] == [("end", "cancelled")]
    again = follow(api_workspace, f"/api/jobs/{job_id}", "5")
    assert [(each.event, each.id) for each in again] == [("end", "5")]
    odd = follow(api_workspace, f"/api/jobs/{job_id}", "none of ours")
    assert [each.event for each in odd] == ["end"]


def test_bulk_can_be_followed_from_its_answer_to_its_end(api_workspace: ApiWorkspace) -> None:
    """The request has no position: a browser's EventSource cannot send one."""
    ids = [str(uuid4()) for _ in range(300)]
    answer = api_workspace.client().post(
        "/api/bulk", json={"kind": "task", "ids": ids, "change": {"delete": True}}
    )
    events = follow(api_workspace, answer.headers["Location"])
    assert events[-1].event == "end"
    assert (events[-1].data["processed"], events[-1].data["failed"]) == (300, 300)
    versions = [int(each.id or 0) for each in events]
    assert versions == sorted(set(versions))


def test_many_clients_follow_one_job(api_workspace: ApiWorkspace) -> None:
    job_id = request_job(api_workspace)
    api_workspace.client()
    found: list[list[Event]] = []
    begun = threading.Barrier(11, timeout=TIMEOUT_S)

    def follow_one() -> None:
        with streaming(api_workspace, f"/api/jobs/{job_id}") as events:
            first = next(events)
            begun.wait()
            found.append([first, *events])

    threads = [threading.Thread(target=follow_one) for _ in range(10)]
    for thread in threads:
        thread.start()
    begun.wait()
    advance(api_workspace, job_id, JobStep(10, 10, done=True))
    for thread in threads:
        thread.join()
    assert [[each.event for each in events] for events in found] == [["progress", "end"]] * 10


def test_stream_has_heartbeats(
    api_workspace: ApiWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_feed, "HEARTBEAT_INTERVAL_S", 0.05)
    assert sse.HEARTBEAT_INTERVAL_S > 1
    with streaming(api_workspace, f"/api/jobs/{request_job(api_workspace)}") as events:
        assert next(events).event == "progress"
        assert next(events).is_heartbeat


def test_shutdown_ends_streams(urls: Urls) -> None:
    with ThreadPoolExecutor(1) as followers:
        with running_api(urls.owner, urls.app, urls.projector) as api:
            api_workspace = api.new_workspace()
            headers = {"Authorization": f"Bearer {api_workspace.token('admin')}"}
            url = f"{api.url}/api/jobs/{request_job(api_workspace)}/events"
            followed = threading.Event()

            def follow_to_the_end() -> list[Event]:
                with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
                    events = _events(response)
                    first = next(events)
                    followed.set()
                    return [first, *events]

            received = followers.submit(follow_to_the_end)
            assert followed.wait(TIMEOUT_S)
        # The server has stopped and the stream ended before the job, so a client would reconnect.
        assert [each.event for each in received.result(TIMEOUT_S)] == ["progress"]
