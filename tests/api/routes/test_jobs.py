"""/api/jobs over a socket: lists, errors, cancelling, and progress as server-sent events."""

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
from eventlog.scope import Actor, Scope
from runtime.composition import new_id, now
from tests.support.api_server import ApiWorkspace, after, running_api
from tests.support.databases import Urls
from tests.support.waiting import TIMEOUT_S

NOBODYS = "of a later version"
"""A kind of work that no worker knows: such jobs wait."""


@pytest.fixture(autouse=True)
def nothing_left(api_workspace: ApiWorkspace) -> Iterator[None]:
    """Jobs that nobody takes up would worry whoever watches the API that tests share."""
    yield
    for each in api_workspace.client().get("/api/jobs").json()["items"]:
        if each["endedAt"] is None:
            api_workspace.client().post(f"/api/jobs/{each['id']}/cancel")


def scope_of(api_workspace: ApiWorkspace) -> Scope:
    return Scope(api_workspace.workspace_id, Actor("member", "ada", "Ada"), command_id=str(uuid4()))


def waiting(api_workspace: ApiWorkspace, kind: str = NOBODYS) -> str:
    """The id of a new job that no worker takes up."""
    jobs = JobCommands(api_workspace.api.writing.log, clock=now, new_id=new_id)
    asked = jobs.request(scope_of(api_workspace), kind, {"a": 1}, total=10)
    api_workspace.api.wait_until_projected(asked.position)
    return str(asked.job.id)


def advance(api_workspace: ApiWorkspace, job_id: str, *steps: JobStep) -> int:
    """A step that nobody did; the position it reached."""
    log, position = api_workspace.api.writing.log, None
    with log.transaction(scope_of(api_workspace)):
        job = log.load(Job, UUID(job_id))
        job.start(at=now())
        for step in steps:
            job.progress(step, at=now())
        position = log.append(job)
    assert position is not None
    api_workspace.api.wait_until_projected(position)
    return position


def test_a_job_shows_how_far_it_is(api_workspace: ApiWorkspace) -> None:
    job_id = waiting(api_workspace)
    shown = api_workspace.client().get(f"/api/jobs/{job_id}").json()
    assert (shown["status"], shown["kind"], shown["total"]) == ("waiting", NOBODYS, 10)
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
    ids = [waiting(api_workspace) for _ in range(5)]
    advance(api_workspace, ids[0], JobStep(10, 10, done=True))
    client = api_workspace.client()

    def listed(**query: Any) -> list[str]:
        return [each["id"] for each in client.get("/api/jobs", params=query).json()["items"]]

    assert listed() == ids[::-1]
    assert listed(status="completed") == ids[:1]
    assert listed(status="waiting") == ids[:0:-1]
    assert listed(kind="bulk") == []
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


def test_all_errors_of_a_job_can_be_walked(api_workspace: ApiWorkspace) -> None:
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


def test_cancelling(api_workspace: ApiWorkspace) -> None:
    job_id = waiting(api_workspace)
    client = api_workspace.client()
    cancelled = client.post(f"/api/jobs/{job_id}/cancel", headers={"Idempotency-Key": "k"})
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    repeated = client.post(f"/api/jobs/{job_id}/cancel", headers={"Idempotency-Key": "k"})
    assert repeated.headers["Idempotent-Replayed"] == "true"
    assert client.post(f"/api/jobs/{job_id}/cancel").status_code == 200
    shown = client.get(f"/api/jobs/{job_id}", headers=after(cancelled)).json()
    assert (shown["status"], shown["version"]) == ("cancelled", 2)
    done = waiting(api_workspace)
    advance(api_workspace, done, JobStep(10, 10, done=True))
    refused = client.post(f"/api/jobs/{done}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "E5030")
    assert (refused.json()["jobId"], refused.json()["endedAs"]) == (done, "completed")
    assert client.post(f"/api/jobs/{uuid4()}/cancel").status_code == 404
    assert api_workspace.client("read-only").post(f"/api/jobs/{done}/cancel").status_code == 403


def test_another_workspace_sees_nothing_of_it(api_workspace: ApiWorkspace) -> None:
    job_id = waiting(api_workspace)
    stranger = api_workspace.api.new_workspace().client()
    assert stranger.get("/api/jobs").json()["items"] == []
    for path in ("", "/errors", "/events"):
        assert stranger.get(f"/api/jobs/{job_id}{path}").status_code == 404
    assert stranger.post(f"/api/jobs/{job_id}/cancel").status_code == 404
    assert api_workspace.client().get(f"/api/jobs/{job_id}").json()["status"] == "waiting"


# Server-sent events


class Event:
    """One event of a stream."""

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
    """The events of a job as they come, over a socket."""
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
    """All events of a job, until its end."""
    with streaming(api_workspace, location, last_event_id) as events:
        return list(events)


def test_progress_is_told_until_the_end(api_workspace: ApiWorkspace) -> None:
    job_id = waiting(api_workspace)
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


def test_who_comes_back_is_not_told_again_what_was_seen(api_workspace: ApiWorkspace) -> None:
    job_id = waiting(api_workspace)
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


def test_a_bulk_is_followed_from_its_answer_to_its_end(api_workspace: ApiWorkspace) -> None:
    """No position is sent along: an EventSource of a browser cannot."""
    ids = [str(uuid4()) for _ in range(300)]
    answer = api_workspace.client().post(
        "/api/bulk", json={"kind": "task", "ids": ids, "change": {"delete": True}}
    )
    told = follow(api_workspace, answer.headers["Location"])
    assert told[-1].event == "end"
    assert (told[-1].data["processed"], told[-1].data["failed"]) == (300, 300)
    versions = [int(each.id or 0) for each in told]
    assert versions == sorted(set(versions))


def test_many_follow_one_job(api_workspace: ApiWorkspace) -> None:
    job_id = waiting(api_workspace)
    api_workspace.client()
    found: list[list[Event]] = []
    begun = threading.Barrier(11, timeout=TIMEOUT_S)

    def one() -> None:
        with streaming(api_workspace, f"/api/jobs/{job_id}") as events:
            first = next(events)
            begun.wait()
            found.append([first, *events])

    threads = [threading.Thread(target=one) for _ in range(10)]
    for thread in threads:
        thread.start()
    begun.wait()
    advance(api_workspace, job_id, JobStep(10, 10, done=True))
    for thread in threads:
        thread.join()
    assert [[each.event for each in events] for events in found] == [["progress", "end"]] * 10


def test_silence_is_filled_and_followers_are_counted(
    api_workspace: ApiWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_feed, "HEARTBEAT_INTERVAL_S", 0.05)
    monkeypatch.setattr(job_feed, "FOLLOWERS_MAX", 1)
    assert sse.HEARTBEAT_INTERVAL_S > 1
    job_id = waiting(api_workspace)
    with streaming(api_workspace, f"/api/jobs/{job_id}") as events:
        assert next(events).event == "progress"
        assert next(events).is_heartbeat
        refused = api_workspace.client().get(f"/api/jobs/{job_id}/events")
        assert (refused.status_code, refused.json()["code"]) == (503, "E2051")
        assert "Retry-After" in refused.headers


def test_a_stop_of_the_server_ends_the_streams(urls: Urls) -> None:
    with ThreadPoolExecutor(1) as followers:
        with running_api(urls.owner, urls.app, urls.projector) as api:
            api_workspace = api.new_workspace()
            headers = {"Authorization": f"Bearer {api_workspace.token('admin')}"}
            url = f"{api.url}/api/jobs/{waiting(api_workspace)}/events"
            followed = threading.Event()

            def follow_to_the_end() -> list[Event]:
                with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
                    events = _events(response)
                    first = next(events)
                    followed.set()
                    return [first, *events]

            told = followers.submit(follow_to_the_end)
            assert followed.wait(TIMEOUT_S)
        # The server has stopped; the stream ended without the job's end, so its client comes back.
        assert [each.event for each in told.result(TIMEOUT_S)] == ["progress"]
