"""Undo of whole operations, as jobs: one event after the other, the last one first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from api.routes import undo as undo_route
from commands.entities import EntityCommands
from commands.jobs.requests import JobCommands
from commands.keys import issue_key
from commands.undo.work import UndoWork
from domain.account import Account
from domain.contact import Contact
from domain.job import Job, JobStatus
from domain.note import Note
from domain.shared.entity import Entity
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from runtime.composition import now
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY
from runtime.work import work_factories
from tests.conftest import Urls
from tests.support.api_server import Office, after
from tests.support.job_bench import Bench
from tests.support.oracle import assert_tables_tell_history
from tests.support.processes import until
from tests.support.undo_desk import ACME, Desk

KIND = "undo"
EXISTING = "SELECT count(*) FROM read.accounts", "SELECT count(*) FROM read.contacts"


@pytest.fixture
def desk(log: EventLog, commands: EntityCommands, scope: Scope) -> Desk:
    return Desk(log, commands, scope)


@pytest.fixture
def bench(
    urls: Urls, log: EventLog, commands: EntityCommands, scope: Scope, database: Connection
) -> Bench:
    return Bench(urls, log, commands, scope, database, works=dict(work_factories()))


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UndoWork, "LIMIT", 7)


def operation(log: EventLog, scope: Scope, accounts: int) -> list[Entity]:
    """One command makes accounts, each with a contact, as an import does."""
    made: list[Entity] = []
    for number in range(accounts):
        account_id = uuid4()
        fields = {"company": f"Acme {number}", "type": "customer"}
        contact = {"name": f"Ada {number}"}
        made.append(Account.create(account_id, scope.workspace_id, fields, at=now()))
        made.append(
            Contact.create(uuid4(), scope.workspace_id, contact, at=now(), account_id=account_id)
        )
    with log.scoped(scope):
        log.append(*made)
    return made


class Undoing:
    """Asks for undo jobs, and has them done."""

    def __init__(self, bench: Bench, engine: ProjectionEngine) -> None:
        self.bench = bench
        self._engine = engine

    def ask(self, command_id: str, *force: str) -> tuple[UUID, str]:
        """A job that undoes the command; its id, and that of its own command."""
        self._engine.catch_up()
        row = self.bench.database.execute(
            "SELECT max(position), count(*) FROM read.audit"
            " WHERE command_id = %s AND entity_type <> 'job'",
            (command_id,),
        ).fetchone()
        assert row is not None
        parameters = {"commandId": command_id, "force": list(force), "below": row[0] + 1}
        scope = Scope(self.bench.scope.workspace_id, command_id=str(uuid4()))
        asked = self.bench.jobs.request(scope, KIND, parameters, total=row[1])
        return asked.job.id, scope.command_id

    def done(self, command_id: str, *force: str) -> tuple[Job, str]:
        """The job that undid the command, and its own command."""
        job_id, own = self.ask(command_id, *force)
        self.bench.worker().run_once()
        return self.bench.job(job_id), own

    def counts(self) -> list[int]:
        """How many accounts and contacts there are."""
        self._engine.catch_up()
        found = [self.bench.database.execute(each.encode()).fetchone() for each in EXISTING]
        return [row[0] for row in found if row]

    def times_undone(self) -> Counter[str]:
        """By position of an event, how often it was undone."""
        rows = self.bench.database.execute(
            "SELECT metadata->>'undoesPosition' FROM events"
            " WHERE metadata->>'undoesPosition' IS NOT NULL"
        )
        return Counter(row[0] for row in rows)


@pytest.fixture
def undoing(bench: Bench, engine: ProjectionEngine) -> Undoing:
    return Undoing(bench, engine)


def test_an_operation_is_undone_and_its_undo_is(
    undoing: Undoing, desk: Desk, database: Connection
) -> None:
    scope = desk.new_scope()
    operation(desk.log, scope, 20)
    job, first = undoing.done(scope.command_id)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.COMPLETED, 40, 0)
    assert job.counts == {"changed": 40}
    assert undoing.counts() == [0, 0]
    job, second = undoing.done(first)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.COMPLETED, 40, 0)
    assert undoing.counts() == [20, 20]
    undoing.done(second)
    assert undoing.counts() == [0, 0]
    assert set(undoing.times_undone().values()) == {1}
    assert_tables_tell_history(database)


def test_undone_already_it_records_nothing(undoing: Undoing, desk: Desk) -> None:
    scope = desk.new_scope()
    operation(desk.log, scope, 10)
    undoing.done(scope.command_id)
    job, _ = undoing.done(scope.command_id)
    assert (job.succeeded, job.counts) == (20, {"changed": 0})
    assert set(undoing.times_undone().values()) == {1}


def test_what_was_changed_since_stays_and_is_named(
    undoing: Undoing, desk: Desk, database: Connection
) -> None:
    scope = desk.new_scope()
    made = operation(desk.log, scope, 10)
    contact, account = made[5], made[4]
    changed = desk.set(Contact, contact.id, title="CEO")
    note = desk.make(Note, made[0].id, body="Added since.")
    job, _ = undoing.done(scope.command_id)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.COMPLETED, 17, 3)
    errors = database.execute("SELECT error FROM job_errors ORDER BY number").fetchall()
    named = {each["entityId"]: each for (each,) in errors}
    assert named.keys() == {str(contact.id), str(account.id), str(made[0].id)}
    told = named[str(contact.id)]
    assert (told["code"], told["entityType"], told["row"]) == ("E5014", "contact", 20 - 5)
    (conflict,) = told["conflicts"]
    assert (conflict["field"], conflict["position"], conflict["canForce"]) == (
        "title", changed, True,
    )  # fmt: skip
    (conflict,) = named[str(made[0].id)]["conflicts"]
    assert (conflict["entityId"], conflict["field"]) == (str(note), "accountId")
    assert undoing.counts() == [2, 1]
    job, _ = undoing.done(scope.command_id, f"{contact.id}/title")
    assert (job.failed, job.counts) == (1, {"changed": 2})
    assert undoing.counts() == [1, 0]
    assert_tables_tell_history(database)


def test_changes_are_taken_back_with_what_the_same_command_made_of_them(
    undoing: Undoing, desk: Desk
) -> None:
    """A command that creates, changes and deletes the same things."""
    account = desk.make(Account, None, **ACME, nextAction="Call")
    scope = desk.new_scope()
    for number in range(9):
        desk.set(Account, account, scope, nextAction=f"Call {number}", status=_status(number))
    note = desk.commands.create(scope, Note, {"body": "x"}, account_id=account).entity.id
    desk.commands.delete(scope, Note, note)
    desk.commands.restore(scope, Note, note)
    desk.commands.delete(scope, Account, account)
    job, _ = undoing.done(scope.command_id)
    assert job.failed == 0
    now_ = desk.load(Account, account)
    assert (now_.values["nextAction"], now_.status, now_.is_deleted) == ("Call", "prospect", False)
    assert desk.load(Note, note).is_deleted


def _status(number: int) -> str:
    return ("active", "on_hold", "inactive")[number % 3]


def test_what_has_left_the_house_is_an_error_of_its_own(
    undoing: Undoing, desk: Desk, database: Connection
) -> None:
    scope = desk.new_scope()
    operation(desk.log, scope, 5)
    issue_key(desk.commands, scope, {"name": "x", "role": "member"})
    job, _ = undoing.done(scope.command_id)
    assert (job.succeeded, job.failed) == (10, 1)
    row = database.execute("SELECT error->>'code' FROM job_errors").fetchone()
    assert row == ("E5016",)


def test_a_merge_among_the_events_is_not_divided_between_steps(
    undoing: Undoing, desk: Desk, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of the steps."""
    monkeypatch.setattr(UndoWork, "LIMIT", 2)
    this, other = (desk.make(Account, None, **ACME) for _ in range(2))
    notes = [desk.make(Note, other, body="x") for _ in range(6)]
    _, command = desk.merge(Account, this, other)
    job, own = undoing.done(command)
    assert job.failed == 0
    assert {desk.load(Note, each).account_id for each in notes} == {other}
    monkeypatch.setattr(UndoWork, "LIMIT", 3)
    undoing.done(own)
    assert {desk.load(Note, each).account_id for each in notes} == {this}
    undoing.counts()
    assert_tables_tell_history(database)


def test_a_killed_worker_costs_nothing(
    undoing: Undoing, desk: Desk, urls: Urls, database: Connection
) -> None:
    scope = desk.new_scope()
    operation(desk.log, scope, 700)
    job_id, _ = undoing.ask(scope.command_id)
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
        until(lambda: undoing.bench.job(job_id).processed > 0)
        worker.kill()
    undoing.bench.worker().run_once()
    job = undoing.bench.job(job_id)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.COMPLETED, 1_400, 0)
    assert undoing.times_undone() == Counter(map(str, desk.positions(scope.command_id)))
    assert undoing.counts() == [0, 0]
    assert_tables_tell_history(database)


# Over HTTP


@pytest.fixture
def _little_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo_route, "UNDO_EVENTS_MAX", 10)


def ended(client: httpx.Client, job: httpx.Response) -> dict[str, Any]:
    """The job once it has ended."""
    shown: dict[str, Any] = {}

    def has_ended() -> bool:
        shown.update(client.get(job.headers["Location"], headers=after(job)).json())
        return shown["endedAt"] is not None

    until(has_ended)
    return shown


@pytest.mark.usefixtures("_little_is_much")
def test_a_large_operation_over_http_becomes_a_job(office: Office) -> None:
    client, log = office.client(), office.api.writing.log
    scope = Scope(office.workspace_id, command_id=str(uuid4()))
    made = operation(log, scope, 8)
    changed = client.patch(f"/api/contacts/{made[1].id}", json={"title": "CEO"})
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
    job = ended(client, asked)
    assert (job["status"], job["succeeded"], job["failed"]) == ("completed", 14, 2)
    assert [each["code"] for each in job["errors"]] == ["E5014", "E5014"]
    assert job["errors"][0]["conflicts"][0]["position"] == int(changed.headers["Annals-Position"])
    forced = client.post("/api/undo", json={"commandId": scope.command_id, "force": ["title"]})
    assert ended(client, forced)["failed"] == 0
    redone = client.post("/api/undo", json={"commandId": asked.json()["commandId"]})
    assert ended(client, redone)["succeeded"] == 14


@pytest.mark.usefixtures("_little_is_much")
def test_what_is_still_under_way_is_not_undone(office: Office) -> None:
    scope = Scope(office.workspace_id, command_id=str(uuid4()))
    operation(office.api.writing.log, scope, 8)
    jobs = JobCommands(office.api.writing.log, clock=now, new_id=uuid4)
    job = jobs.request(scope, "of a later version", {}, total=10).job
    refused = office.client().post("/api/undo", json={"commandId": scope.command_id})
    assert (refused.status_code, refused.json()["code"]) == (409, "E5055")
    assert refused.json()["jobId"] == str(job.id)
    jobs.cancel(scope, job.id)
    asked = office.client().post("/api/undo", json={"commandId": scope.command_id})
    assert asked.status_code == 202


@pytest.mark.usefixtures("_little_is_much")
def test_undoing_much_takes_the_same_right(office: Office) -> None:
    scope = Scope(office.workspace_id, command_id=str(uuid4()))
    operation(office.api.writing.log, scope, 8)
    refused = office.client("read-only").post("/api/undo", json={"commandId": scope.command_id})
    assert refused.status_code == 403
