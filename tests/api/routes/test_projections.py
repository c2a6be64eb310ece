"""Rebuild, rollback and retry are requested over HTTP and run in a separate process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from commands.entities import EntityCommands
from domain.account import Account
from eventlog.connections import follow_connection
from eventlog.scope import Scope
from projections.engine.jobs import queue
from projections.engine.ledger.coverage import verify_all
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from runtime.settings import REPOSITORY
from tests.support.databases import Urls
from tests.support.failing_projection import failing_for
from tests.support.processes import Projector, command_line_of, running_projector
from tests.support.projection_admin import ProjectionAdmin, open_projection_admin
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=35)

ACCOUNTS = 60
VERIFY = "/api/projections/accounts/verify"


@pytest.fixture
def projector(urls: Urls, tmp_path: Path) -> Iterator[Projector]:
    """A running projector."""
    with running_projector(urls, tmp_path / "projector.log") as projector:
        yield projector


@pytest.fixture
def admin(urls: Urls, projector: Projector) -> Iterator[ProjectionAdmin]:
    """An API beside a running projector, with some accounts."""
    with open_projection_admin(urls) as admin:
        position = [admin.write(f"Company {number}").position for number in range(ACCOUNTS)][-1]
        admin.wait_until_projected(position)
        yield admin


class Reader(threading.Thread):
    """Writes accounts and reads each of them until it is stopped."""

    def __init__(self, admin: ProjectionAdmin) -> None:
        super().__init__()
        self._admin = admin
        self._key = admin.key_headers("member")
        self._stopped = threading.Event()
        self.reads = 0
        self.faults: list[str] = []

    def run(self) -> None:
        """Record a fault if a read does not show the write before it."""
        while not self._stopped.is_set():
            outcome = self._admin.write(f"Read {self.reads}")
            answer = self._admin.client.get(
                f"/api/accounts/{outcome.entity.id}",
                headers={**self._key, "Annals-Min-Position": str(outcome.position)},
            )
            if answer.status_code != 200:
                self.faults.append(answer.text)
            self.reads += 1

    def stop(self) -> None:
        """Finish the current read and end the thread."""
        self._stopped.set()
        self.join()


def test_rebuild_and_rollback_succeed_during_writes_and_reads(
    admin: ProjectionAdmin,
) -> None:
    plan = admin.ask("rebuild", plan=True)
    assert plan.status_code == 200
    assert plan.json()["events"] >= ACCOUNTS
    assert plan.json()["codeChanged"] is False
    assert plan.json()["bytes"] > 0
    reader = Reader(admin)
    reader.start()
    try:
        accepted = admin.ask("rebuild")
        assert accepted.status_code == 202
        assert accepted.json()["state"] == "requested"
        assert accepted.json()["startedAt"] is None
        done = admin.ended(accepted.headers["Location"])
    finally:
        reader.stop()
    assert done["state"] == "done", done
    assert done["message"] == "rebuilt and swapped in; the tables from before are kept"
    assert done["processed"] >= ACCOUNTS
    assert done["secondsLeft"] is None
    assert reader.reads > 5
    assert reader.faults == []
    listed = admin.client.get("/api/projections/accounts/rebuilds").json()["items"]
    assert listed == [done]
    back = admin.ask("rollback")
    assert back.status_code == 202
    ended = admin.ended(back.headers["Location"])
    assert (ended["kind"], ended["state"]) == ("rollback", "done"), ended
    assert verify_all(admin.database) == []


def job_process(projector: Projector) -> psutil.Process:
    """Return the process of the projection job that the projector has started."""
    children = psutil.Process(projector.process.pid).children()
    (child,) = [each for each in children if "job" in command_line_of(each)]
    return child


def test_cancelled_rebuild_keeps_the_live_tables(
    admin: ProjectionAdmin, projector: Projector
) -> None:
    before = admin.database.execute("SELECT count(*), max(id::text) FROM read.accounts").fetchone()
    location = admin.ask("rebuild", throttle=1).headers["Location"]
    admin.wait_for_state(location, "building")
    found = admin.client.get(location).json()
    assert found["throttle"] == 1
    second = admin.ask("rebuild")
    assert (second.status_code, second.json()["code"]) == (409, "E5020")
    # Suspended, so that the job cannot end before its state is read for the answer.
    processes = [job_process(projector), *job_process(projector).children(recursive=True)]
    for each in processes:
        each.suspend()
    asked = admin.client.post(f"{location}/cancel")
    for each in processes:
        each.resume()
    assert (asked.status_code, asked.json()["state"]) == (202, "cancelling")
    assert admin.ended(location)["state"] == "cancelled"
    again = admin.client.post(f"{location}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "E5021")
    after = admin.database.execute("SELECT count(*), max(id::text) FROM read.accounts").fetchone()
    assert after == before


def test_one_of_many_concurrent_rebuilds_is_accepted(admin: ProjectionAdmin) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: admin.ask("rebuild", "notes"), range(8)))
    assert sorted(each.status_code for each in answers) == [202] + [409] * 7
    refused = next(each for each in answers if each.status_code == 409)
    assert refused.json()["code"] == "E5020"
    location = next(each.headers["Location"] for each in answers if each.status_code == 202)
    assert admin.ended(location)["state"] == "done"


def test_killed_rebuild_is_failed_and_the_projector_keeps_running(
    admin: ProjectionAdmin, projector: Projector
) -> None:
    location = admin.ask("rebuild", throttle=1).headers["Location"]
    admin.wait_for_state(location, "building")
    job_process(projector).kill()
    failed = admin.ended(location)
    assert (failed["state"], failed["message"]) == ("failed", "its process ended with exit code -9")
    assert projector.process.poll() is None
    assert admin.ended(admin.ask("rebuild").headers["Location"])["state"] == "done"


def test_rebuild_of_a_killed_projector_is_failed_by_the_next_one(
    urls: Urls, tmp_path: Path
) -> None:
    with (
        running_projector(urls, tmp_path / "first.log") as first,
        open_projection_admin(urls) as admin,
    ):
        for number in range(ACCOUNTS):
            admin.write(f"Company {number}")
        location = admin.ask("rebuild", throttle=1).headers["Location"]
        admin.wait_for_state(location, "building")
        children = psutil.Process(first.process.pid).children(recursive=True)
        first.kill()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert alive == []
        with running_projector(urls, tmp_path / "second.log"):
            failed = admin.ended(location)
            assert (failed["state"], failed["message"]) == ("failed", "its process died")
            assert admin.ask("rebuild").status_code == 202


def test_parked_entity_is_repaired_by_a_retry_and_shown_to_its_workspace_only(
    urls: Urls, tmp_path: Path, commands: EntityCommands, scope: Scope
) -> None:
    made = commands.create(scope, Account, {"company": "Bluth", "type": "customer"})
    ProjectionEngine(urls.projector, [failing_for(PROJECTIONS["accounts"], "Bluth")]).catch_up()
    with running_projector(urls, tmp_path / "projector.log"), open_projection_admin(urls) as admin:
        owner = admin.key_headers("admin", scope.workspace_id)
        url = "/api/projections/accounts"
        mine = admin.client.get(url, headers=owner).json()
        assert [each["entityId"] for each in mine["parkedEntities"]] == [str(made.entity.id)]
        assert mine["parkedEntities"][0]["error"] == "ValueError: cannot digest Bluth"
        stranger = admin.client.get(url, headers=admin.key_headers("admin", uuid4()))
        assert (stranger.json()["parked"], stranger.json()["parkedEntities"]) == (0, [])
        operator = admin.client.get(url)
        assert operator.json()["parked"] == 1
        assert "Bluth" not in stranger.text + operator.text
        back = admin.ended(admin.ask("retry").headers["Location"])
        assert (back["kind"], back["state"]) == ("retry", "done"), back
        assert back["message"] == "1 entities are repaired, each equal to a fresh fold"
        assert admin.client.get(url, headers=owner).json()["parkedEntities"] == []


def test_message_of_a_failed_rebuild_omits_the_differing_rows(admin: ProjectionAdmin) -> None:
    position = admin.write("Secretive").position
    admin.wait_until_projected(position)
    admin.database.execute(
        "UPDATE read.accounts SET company = 'forged' WHERE company = 'Secretive'"
    )
    location = admin.ask("rebuild").headers["Location"]
    failed = admin.ended(location)
    assert failed["state"] == "failed"
    assert failed["message"].startswith("1 rows differ though the code is the same")
    assert "forged" not in admin.client.get(location).text
    written = admin.database.execute("SELECT message FROM projection_rebuilds").fetchone()
    assert written is not None
    assert "forged" in written[0]


def test_damaged_projection_is_verified_and_replaced_over_http(admin: ProjectionAdmin) -> None:
    wait_until_current(admin)
    first = admin.ended(admin.client.post(VERIFY, json={}).headers["Location"])
    assert (first["kind"], first["state"]) == ("verify", "done"), first
    assert first["message"] == "all rows are equal to those of a fresh fold"
    admin.database.execute("TRUNCATE read.accounts")
    second = admin.ended(admin.client.post(VERIFY, json={}).headers["Location"])
    assert (second["state"], "rows differ" in second["message"]) == ("failed", True)
    assert admin.client.get("/healthz").status_code == 200
    for given in ({"replace": True}, {"replace": True, "reason": "  "}):
        refused = admin.client.post("/api/projections/accounts/rebuild", json=given)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "reason")
    done = admin.ended(admin.ask("rebuild", replace=True, reason="a test").headers["Location"])
    assert (done["state"], done["replace"], done["reason"]) == ("done", True, "a test"), done
    third = admin.ended(admin.client.post(VERIFY, json={}).headers["Location"])
    assert third["state"] == "done"


def test_missing_table_turns_health_red_until_it_is_replaced(admin: ProjectionAdmin) -> None:
    admin.database.execute("DROP TABLE read.accounts CASCADE")
    admin.write("Newer")
    wait_until(lambda: admin.client.get("/healthz").status_code == 503, "health is red")
    (listed,) = [
        each for each in admin.client.get("/healthz").json()["projections"]
        if each["status"] == "red"
    ]  # fmt: skip
    assert listed["name"] == "accounts"
    assert "its tables cannot be changed (UndefinedTable" in "".join(listed["reasons"])
    shown = admin.client.get("/api/projections/accounts").json()
    assert shown["problem"].startswith("UndefinedTable")
    assert (
        'annals_projection_damaged{projection="accounts"} 1.0' in admin.client.get("/metrics").text
    )
    done = admin.ended(admin.ask("rebuild", replace=True, reason="a test").headers["Location"])
    assert done["state"] == "done", done
    wait_until(lambda: admin.client.get("/healthz").status_code == 200, "health is green")
    assert admin.client.get("/api/projections/accounts").json()["problem"] is None


def wait_until_current(admin: ProjectionAdmin) -> None:
    """Wait until everything that was written is projected."""
    admin.wait_until_projected(admin.write("Current").position)


def test_invalid_requests_are_refused(admin: ProjectionAdmin) -> None:
    for method, path, status, code in (
        ("POST", "/api/projections/planets/rebuild", 404, "E5002"),
        ("GET", "/api/projections/planets", 404, "E5002"),
        ("POST", "/api/projections/accounts/rollback", 409, "E5022"),
        ("GET", "/api/projections/accounts/rebuilds/99", 404, "E5002"),
        ("GET", "/api/projections/accounts/rebuilds/x", 404, "E5002"),
        ("POST", "/api/projections/accounts/rebuilds/99/cancel", 404, "E5002"),
    ):
        body: dict[str, Any] | None = {} if path.endswith("rebuild") else None
        refused = admin.client.request(method, path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (status, code), path
    for given in ({"throttle": 0}, {"throttle": "fast"}, {"plan": "yes"}, {"force": True}):
        refused = admin.client.post("/api/projections/accounts/rebuild", json=given)
        assert refused.status_code == 422, given
    analyst = admin.key_headers("analyst")
    assert admin.client.get("/api/projections/accounts", headers=analyst).status_code == 200
    for path in ("accounts/retry", "accounts/rollback", "accounts/rebuilds/1/cancel"):
        refused = admin.client.post(f"/api/projections/{path}", headers=analyst)
        assert (refused.status_code, refused.json()["code"]) == (403, "E1022")


def test_admin_of_a_tenant_neither_operates_nor_sees_what_spans_workspaces(
    admin: ProjectionAdmin,
) -> None:
    tenant = admin.key_headers("admin")
    planned = {"plan": True}
    for method, path, body in (
        ("POST", "accounts/rebuild", planned),
        ("POST", "accounts/rollback", None),
        ("POST", "accounts/retry", None),
        ("POST", "accounts/verify", {}),
        ("GET", "accounts/rebuilds", None),
        ("GET", "accounts/rebuilds/1", None),
        ("POST", "accounts/rebuilds/1/cancel", None),
    ):
        url = f"/api/projections/{path}"
        refused = admin.client.request(method, url, json=body, headers=tenant)
        assert (refused.status_code, refused.json()["code"]) == (403, "E1022"), path
    assert admin.database.execute("SELECT count(*) FROM projection_rebuilds").fetchone() == (0,)
    listed = admin.client.get("/api/projections", headers=tenant).json()["items"]
    assert {tuple(each) for each in listed} == {("name", "isCurrent", "parked")}
    assert all(each["isCurrent"] for each in listed)


def test_job_names_the_operator_key_that_requested_it(admin: ProjectionAdmin) -> None:
    key_id = admin.client.get("/api/me").json()["keyId"]
    admin.ended(admin.ask("rebuild").headers["Location"])
    requested = admin.database.execute("SELECT requested_by FROM projection_rebuilds").fetchall()
    assert requested == [(f"key {key_id}",)]


def test_requested_rebuild_can_be_cancelled_without_a_projector(
    urls: Urls, engine: ProjectionEngine
) -> None:
    with admin_without_job_runner(urls, engine) as admin:
        location = admin.ask("rebuild").headers["Location"]
        time.sleep(0.2)  # long enough for a projector to take the request, if one were there
        assert admin.client.get(location).json()["state"] == "requested"
        admin.client.post(f"{location}/cancel")
        with follow_connection(urls.projector, application_name="test") as connection:
            wait_until(
                lambda: queue.fail_orphaned(connection, []) != [], "the orphaned job is found"
            )
        assert admin.client.get(location).json()["state"] == "cancelled"


@contextmanager
def admin_without_job_runner(urls: Urls, engine: ProjectionEngine) -> Iterator[ProjectionAdmin]:
    """An API with running projections, but no process that runs jobs."""
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        with open_projection_admin(urls) as admin:
            yield admin
    finally:
        engine.stop()
        thread.join()


def test_commands_of_the_operations_page_work(admin: ProjectionAdmin) -> None:
    page = (REPOSITORY / "docs" / "how-to" / "operate.md").read_text("utf-8")
    given, *blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names = [line.partition("=")[0] for line in given.splitlines()]
    token = admin.client.headers["Authorization"].removeprefix("Bearer ")
    values = dict(zip(names, (str(admin.client.base_url), token), strict=True))
    script = "set -eu\n" + "\n".join(blocks)
    done = subprocess.run(
        ["sh", "-c", script],
        env={**os.environ, **values},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for expected in ('"status":"live"', '"status":"ready"', "lag_seconds{", '"codeChanged":false'):
        assert expected in done.stdout
    assert '"kind" : "rollback"' in done.stdout
    assert '"E5021"' in done.stdout, "a finished job cannot be cancelled"


def test_stopped_projector_ends_its_jobs(admin: ProjectionAdmin, projector: Projector) -> None:
    location = admin.ask("rebuild", throttle=1).headers["Location"]
    admin.wait_for_state(location, "building")
    children = psutil.Process(projector.process.pid).children(recursive=True)
    projector.signal(signal.SIGTERM)
    assert projector.process.wait(20) == 0
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
