"""Undo of large commands by jobs: one event after the other, the last one first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from commands.entities import EntityCommands
from commands.jobs.requests import JobCommands
from commands.keys import issue_key
from commands.undo import commands as undo_commands
from commands.undo.work import UndoWork
from domain.account import Account
from domain.contact import Contact
from domain.job import Job, JobStatus
from domain.note import Note
from domain.shared.entity import Entity
from eventlog.clock import local_time
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY
from runtime.work import work_factories
from tests.support.api_server import ApiWorkspace, after
from tests.support.databases import Urls
from tests.support.job_harness import JobHarness
from tests.support.keys import credential, issue_first_key
from tests.support.oracle import assert_tables_match_log
from tests.support.undo_client import ACME, UndoClient
from tests.support.waiting import wait_until

KIND = "undo"
COUNTS = "SELECT count(*) FROM read.accounts", "SELECT count(*) FROM read.contacts"


@pytest.fixture
def undo_client(log: EventLog, commands: EntityCommands, scope: Scope) -> UndoClient:
    return UndoClient(log, commands, scope)


@pytest.fixture
def job_harness(
    urls: Urls, log: EventLog, commands: EntityCommands, scope: Scope, database: Connection
) -> JobHarness:
    return JobHarness(urls, log, commands, scope, database, works=dict(work_factories()))


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UndoWork, "LIMIT", 7)


def record_command(log: EventLog, scope: Scope, accounts: int) -> list[Entity]:
    """Record one command that creates accounts, each with a contact, as an import does."""
    created: list[Entity] = []
    for number in range(accounts):
        account_id = uuid4()
        fields = {"company": f"Acme {number}", "type": "customer"}
        contact = {"name": f"Ada {number}"}
        created.append(Account.create(account_id, scope.workspace_id, fields, at=local_time()))
        created.append(
            Contact.create(
                uuid4(), scope.workspace_id, contact, at=local_time(), account_id=account_id
            )
        )
    with log.scoped(scope):
        log.append(*created)
    return created


class UndoJobs:
    """Requests undo jobs and runs them."""

    def __init__(self, job_harness: JobHarness, engine: ProjectionEngine) -> None:
        self.job_harness = job_harness
        self._engine = engine

    def request(self, command_id: str, *force: str) -> tuple[UUID, str]:
        """Request a job that undoes the command; return the ids of the job and of its command."""
        self._engine.catch_up()
        row = self.job_harness.database.execute(
            "SELECT max(position), count(*) FROM events"
            " WHERE command_id = %s AND topic NOT LIKE 'job.%%'",
            (command_id,),
        ).fetchone()
        assert row is not None
        parameters = {"commandId": command_id, "force": list(force), "below": row[0] + 1}
        scope = Scope(self.job_harness.scope.workspace_id, command_id=str(uuid4()))
        requested = self.job_harness.jobs.request(scope, KIND, parameters, total=row[1])
        return requested.job.id, scope.command_id

    def run(self, command_id: str, *force: str) -> tuple[Job, str]:
        """Undo the command by a job; return the job and the id of its command."""
        job_id, own_command = self.request(command_id, *force)
        self.job_harness.worker().run_once()
        return self.job_harness.job(job_id), own_command

    def count_entities(self) -> list[int]:
        """Return the numbers of accounts and contacts."""
        self._engine.catch_up()
        found = [self.job_harness.database.execute(each.encode()).fetchone() for each in COUNTS]
        return [row[0] for row in found if row]

    def times_undone(self) -> Counter[str]:
        """Return how often each event was undone, by its position."""
        rows = self.job_harness.database.execute(
            "SELECT metadata->>'undoesPosition' FROM events"
            " WHERE metadata->>'undoesPosition' IS NOT NULL"
        )
        return Counter(row[0] for row in rows)


@pytest.fixture
def undo_jobs(job_harness: JobHarness, engine: ProjectionEngine) -> UndoJobs:
    return UndoJobs(job_harness, engine)


def test_undo_job_can_itself_be_undone(
    undo_jobs: UndoJobs, undo_client: UndoClient, database: Connection
) -> None:
    scope = undo_client.new_scope()
    record_command(undo_client.log, scope, 20)
    job, first = undo_jobs.run(scope.command_id)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.COMPLETED, 40, 0)
    assert job.counts == {"changed": 40}
    assert undo_jobs.count_entities() == [0, 0]
    job, second = undo_jobs.run(first)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.COMPLETED, 40, 0)
    assert undo_jobs.count_entities() == [20, 20]
    undo_jobs.run(second)
    assert undo_jobs.count_entities() == [0, 0]
    assert set(undo_jobs.times_undone().values()) == {1}
    assert_tables_match_log(database)


def test_second_undo_job_records_nothing(undo_jobs: UndoJobs, undo_client: UndoClient) -> None:
    scope = undo_client.new_scope()
    record_command(undo_client.log, scope, 10)
    undo_jobs.run(scope.command_id)
    job, _ = undo_jobs.run(scope.command_id)
    assert (job.succeeded, job.counts) == (20, {"changed": 0})
    assert set(undo_jobs.times_undone().values()) == {1}


def test_entities_changed_since_stay_and_are_reported(
    undo_jobs: UndoJobs, undo_client: UndoClient, database: Connection
) -> None:
    scope = undo_client.new_scope()
    created = record_command(undo_client.log, scope, 10)
    contact, account = created[5], created[4]
    changed = undo_client.set(Contact, contact.id, title="CEO")
    note = undo_client.make(Note, created[0].id, body="Added since.")
    job, _ = undo_jobs.run(scope.command_id)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.COMPLETED, 17, 3)
    errors = database.execute("SELECT error FROM job_errors ORDER BY number").fetchall()
    error_by_entity = {each["entityId"]: each for (each,) in errors}
    assert error_by_entity.keys() == {str(contact.id), str(account.id), str(created[0].id)}
    error = error_by_entity[str(contact.id)]
    assert (error["code"], error["entityType"], error["row"]) == ("E5014", "contact", 20 - 5)
    (conflict,) = error["conflicts"]
    assert (conflict["field"], conflict["position"], conflict["canForce"]) == (
        "title", changed, True,
    )  # fmt: skip
    (conflict,) = error_by_entity[str(created[0].id)]["conflicts"]
    assert (conflict["entityId"], conflict["field"]) == (str(note), "accountId")
    assert undo_jobs.count_entities() == [2, 1]
    job, _ = undo_jobs.run(scope.command_id, f"{contact.id}/title")
    assert (job.failed, job.counts) == (1, {"changed": 2})
    assert undo_jobs.count_entities() == [1, 0]
    assert_tables_match_log(database)


def test_repeated_changes_of_one_entity_by_a_command_are_undone(
    undo_jobs: UndoJobs, undo_client: UndoClient
) -> None:
    """The command creates, changes and deletes the same entities."""
    account = undo_client.make(Account, None, **ACME, nextAction="Call")
    scope = undo_client.new_scope()
    for number in range(9):
        undo_client.set(
            Account, account, scope, nextAction=f"Call {number}", status=_status(number)
        )
    note = undo_client.commands.create(scope, Note, {"body": "x"}, account_id=account).entity.id
    undo_client.commands.delete(scope, Note, note)
    undo_client.commands.restore(scope, Note, note)
    undo_client.commands.delete(scope, Account, account)
    job, _ = undo_jobs.run(scope.command_id)
    assert job.failed == 0
    state = undo_client.load(Account, account)
    assert (state.values["nextAction"], state.status, state.is_deleted) == (
        "Call",
        "prospect",
        False,
    )
    assert undo_client.load(Note, note).is_deleted


def _status(number: int) -> str:
    return ("active", "on_hold", "inactive")[number % 3]


def test_irreversible_event_is_a_failed_item(
    urls: Urls, undo_jobs: UndoJobs, undo_client: UndoClient, database: Connection
) -> None:
    scope = undo_client.new_scope()
    issuer = credential(issue_first_key(urls.owner, scope.workspace_id))
    record_command(undo_client.log, scope, 5)
    scope = replace(scope, credential=issuer)
    issue_key(undo_client.commands, scope, {"name": "x", "role": "member"})
    job, _ = undo_jobs.run(scope.command_id)
    assert (job.succeeded, job.failed) == (10, 1)
    row = database.execute("SELECT error->>'code' FROM job_errors").fetchone()
    assert row == ("E5016",)


def test_merge_is_undone_in_one_step(
    undo_jobs: UndoJobs,
    undo_client: UndoClient,
    database: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The number of items in a step does not matter."""
    monkeypatch.setattr(UndoWork, "LIMIT", 2)
    this, other = (undo_client.make(Account, None, **ACME) for _ in range(2))
    notes = [undo_client.make(Note, other, body="x") for _ in range(6)]
    _, command = undo_client.merge(Account, this, other)
    job, undo_command = undo_jobs.run(command)
    assert job.failed == 0
    assert {undo_client.load(Note, each).account_id for each in notes} == {other}
    monkeypatch.setattr(UndoWork, "LIMIT", 3)
    undo_jobs.run(undo_command)
    assert {undo_client.load(Note, each).account_id for each in notes} == {this}
    undo_jobs.count_entities()
    assert_tables_match_log(database)


def test_undo_job_continues_after_its_worker_was_killed(
    undo_jobs: UndoJobs, undo_client: UndoClient, urls: Urls, database: Connection
) -> None:
    scope = undo_client.new_scope()
    record_command(undo_client.log, scope, 700)
    job_id, _ = undo_jobs.request(scope.command_id)
    environment = {
        **os.environ,
        "ANNALS_APP_URL": urls.app,
        SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        "PYTHONPATH": str(REPOSITORY),
    }
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "server.cli", "work"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as worker:
        wait_until(
            lambda: undo_jobs.job_harness.job(job_id).processed > 0, "the job has done a step"
        )
        worker.kill()
    undo_jobs.job_harness.worker().run_once()
    job = undo_jobs.job_harness.job(job_id)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.COMPLETED, 1_400, 0)
    assert undo_jobs.times_undone() == Counter(map(str, undo_client.positions(scope.command_id)))
    assert undo_jobs.count_entities() == [0, 0]
    assert_tables_match_log(database)


# Over HTTP


@pytest.fixture
def _small_undo_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo_commands, "UNDO_EVENTS_MAX", 10)


def wait_until_ended(client: httpx.Client, job: httpx.Response) -> dict[str, Any]:
    """Wait until the job has ended and return it."""
    shown: dict[str, Any] = {}

    def has_ended() -> bool:
        shown.update(client.get(job.headers["Location"], headers=after(job)).json())
        return shown["endedAt"] is not None

    wait_until(has_ended, "the job has ended")
    return shown


@pytest.mark.usefixtures("_small_undo_limit")
def test_undo_of_a_large_command_becomes_a_job(api_workspace: ApiWorkspace) -> None:
    client, log = api_workspace.client(), api_workspace.api.writing.log
    scope = Scope(api_workspace.workspace_id, command_id=str(uuid4()))
    created = record_command(log, scope, 8)
    changed = client.patch(f"/api/contacts/{created[1].id}", json={"title": "CEO"})
    shown = client.get("/api/undo/preview", params={"commandId": scope.command_id}).json()
    assert (shown["isJob"], shown["events"], shown["examined"]) == (True, 16, 16)
    assert shown["did"] == [
        {"entityType": "account", "action": "create", "count": 8},
        {"entityType": "contact", "action": "create", "count": 8},
    ]
    assert shown["canUndo"] is False
    assert [(each["kind"], each["field"]) for each in shown["conflicts"]] == [
        ("contact", "title"),
        ("contact", "accountId"),
    ]
    assert len(shown["changes"]) == 16
    asked = client.post(
        "/api/undo", json={"commandId": scope.command_id}, headers={"Idempotency-Key": "u-1"}
    )
    assert (asked.status_code, asked.json()["kind"], asked.json()["total"]) == (202, "undo", 16)
    again = client.post(
        "/api/undo", json={"commandId": scope.command_id}, headers={"Idempotency-Key": "u-1"}
    )
    assert again.headers["Location"] == asked.headers["Location"]
    job = wait_until_ended(client, asked)
    assert (job["status"], job["succeeded"], job["failed"]) == ("completed", 14, 2)
    assert [each["code"] for each in job["errors"]] == ["E5014", "E5014"]
    assert job["errors"][0]["conflicts"][0]["position"] == int(changed.headers["Annals-Position"])
    forced = client.post("/api/undo", json={"commandId": scope.command_id, "force": ["title"]})
    assert wait_until_ended(client, forced)["failed"] == 0
    redone = client.post("/api/undo", json={"commandId": asked.json()["commandId"]})
    assert wait_until_ended(client, redone)["succeeded"] == 14


@pytest.mark.usefixtures("_small_undo_limit")
def test_command_with_an_open_job_cannot_be_undone(api_workspace: ApiWorkspace) -> None:
    scope = Scope(api_workspace.workspace_id, command_id=str(uuid4()))
    record_command(api_workspace.api.writing.log, scope, 8)
    jobs = JobCommands(api_workspace.api.writing.log, clock=local_time, new_id=uuid4)
    job = jobs.request(scope, "of a later version", {}, total=10).job
    refused = api_workspace.client().post("/api/undo", json={"commandId": scope.command_id})
    assert (refused.status_code, refused.json()["code"]) == (409, "E5055")
    assert refused.json()["jobId"] == str(job.id)
    jobs.cancel(scope, job.id)
    asked = api_workspace.client().post("/api/undo", json={"commandId": scope.command_id})
    assert asked.status_code == 202


@pytest.mark.usefixtures("_small_undo_limit")
def test_undo_job_requires_write_permission(api_workspace: ApiWorkspace) -> None:
    scope = Scope(api_workspace.workspace_id, command_id=str(uuid4()))
    record_command(api_workspace.api.writing.log, scope, 8)
    refused = api_workspace.client("read-only").post(
        "/api/undo", json={"commandId": scope.command_id}
    )
    assert refused.status_code == 403
