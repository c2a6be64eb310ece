"""Merge: of two one stays, with what hung on both; and it is undone as one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from commands import merging as merging_module
from commands.entities import EntityCommands
from commands.merging import MergeOutcome
from commands.undo.commands import UndoTarget
from domain.account import Account
from domain.appointment import Appointment
from domain.contact import Contact
from domain.meeting import Meeting
from domain.member import Member
from domain.note import Note
from domain.opportunity import Opportunity
from domain.shared.entity import Entity
from domain.shared.refusals import (
    AccountUnavailable,
    AlreadyUndone,
    InvalidFields,
    IsDeleted,
    MergeRefused,
    NotAMember,
    NotFound,
    OpenOpportunities,
    PartOfAWhole,
    Refusal,
    StaleVersion,
    TooMuchToMerge,
    WasMerged,
)
from domain.task import Task
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild import runner
from projections.engine.rebuild.retry import retry
from projections.engine.registry import PROJECTIONS
from readmodels import table_definitions
from tests.support.api_server import ApiWorkspace, after
from tests.support.databases import Urls
from tests.support.failing_projection import failing_for
from tests.support.oracle import assert_tables_match_log
from tests.support.undo_client import ACME, UndoClient, conflicts

CHILDREN: dict[type[Entity], dict[str, Any]] = {
    Contact: {"name": "Ada"},
    Task: {"title": "Call"},
    Meeting: {"title": "Kick-off"},
    Note: {"body": "Likes tea."},
    Opportunity: {"name": "Renewal"},
}

MONDAY = "2026-03-02T10:00:00+00:00"

Deal = tuple[UUID, UUID, dict[type[Entity], UUID]]


@pytest.fixture
def undo_client(log: EventLog, commands: EntityCommands, scope: Scope) -> UndoClient:
    return UndoClient(log, commands, scope)


@pytest.fixture
def deal(undo_client: UndoClient) -> Deal:
    """Two accounts, and on the second one of each thing that hangs on an account."""
    this = undo_client.make(Account, None, **ACME, nextAction="Call")
    other = undo_client.make(
        Account, None, company="ACME Inc.", type="customer", dealValue="5.00", nextAction="Write"
    )
    undo_client.make(Contact, this, name="Grace")
    return this, other, {kind: undo_client.make(kind, other, **of) for kind, of in CHILDREN.items()}


def whole_state(undo_client: UndoClient, ids: dict[UUID, type[Entity]]) -> dict[UUID, Any]:
    """What there is to know of these, but for how often they changed."""
    loaded = [undo_client.load(kind, each) for each, kind in ids.items()]
    return {
        each.id: (
            each.values,
            each.is_deleted,
            each.deleted_with,
            each.merged_into,
            each.account_id,
        )
        for each in loaded
    }


def everything(deal: Deal) -> dict[UUID, type[Entity]]:
    this, other, children = deal
    return {this: Account, other: Account, **{child: kind for kind, child in children.items()}}


# What comes of it


def test_all_that_hangs_on_the_other_comes_along(
    undo_client: UndoClient, deal: Deal, engine: ProjectionEngine, database: Connection
) -> None:
    this, other, children = deal
    merged, _ = undo_client.merge(Account, this, other)
    assert merged.moved == {each.KIND: 1 for each in children}
    for kind, child in children.items():
        now = undo_client.load(kind, child)
        assert (now.account_id, now.is_deleted) == (this, False)
    gone = undo_client.load(Account, other)
    assert (gone.is_deleted, gone.merged_into) == (True, this)
    engine.catch_up()
    rows = database.execute(
        "SELECT id, contact_count, task_count, meeting_count, note_count, open_opportunity_count"
        " FROM read.accounts"
    ).fetchall()
    assert rows == [(this, 2, 1, 1, 1, 1)]
    assert_tables_match_log(database)


def test_what_one_lacks_is_taken_from_the_other(undo_client: UndoClient) -> None:
    this = undo_client.make(
        Contact, undo_client.make(Account, None, **ACME), name="Ada", title="CFO"
    )
    other = undo_client.make(
        Contact,
        undo_client.make(Account, None, **ACME),
        name="A. Lovelace",
        title="CEO",
        email="ada@example.com",
        phone="112",
        customFields={"vip": True},
    )
    merged, _ = undo_client.merge(
        Contact,
        this,
        other,
        {"title": "other", "phone": "this", "customFields.seat": {"value": 4}},
    )
    assert merged.outcome.entity.values == {
        "name": "Ada",
        "title": "CEO",
        "email": "ada@example.com",
        "customFields": {"vip": True, "seat": 4},
    }


def test_a_status_that_is_taken_over_is_a_change_of_status(undo_client: UndoClient) -> None:
    this = undo_client.make(Account, None, **ACME)
    other = undo_client.make(Account, None, **ACME, status="active")
    _, command = undo_client.merge(Account, this, other, {"status": "other"})
    assert undo_client.load(Account, this).status == "active"
    undo_client.undo_command(command)
    assert undo_client.load(Account, this).status == "prospect"


def test_who_left_is_not_taken_over_unasked(undo_client: UndoClient) -> None:
    ada = undo_client.make(Member, name="Ada")
    this = undo_client.make(Account, None, **ACME)
    other = undo_client.make(Account, None, **ACME, assignedTo=str(ada))
    undo_client.delete(Member, ada)
    with pytest.raises(NotAMember):
        undo_client.merge(Account, this, other, {"assignedTo": "other"})
    undo_client.merge(Account, this, other)
    assert "assignedTo" not in undo_client.load(Account, this).values


def test_asked_again_it_is_done_once(undo_client: UndoClient, deal: Deal) -> None:
    this, other, _ = deal
    merged, _ = undo_client.merge(Account, this, other)
    again, command = undo_client.merge(Account, this, other)
    assert again.outcome.entity.version == merged.outcome.entity.version
    assert undo_client.positions(command) == ()


# What is refused


def test_what_cannot_be_merged(undo_client: UndoClient, deal: Deal) -> None:
    this, other, children = deal
    gone, third = undo_client.make(Account, None, **ACME), undo_client.make(Account, None, **ACME)
    undo_client.delete(Account, gone)
    fund = undo_client.make(Account, None, company="Fund", type="investor")
    elsewhere = UndoClient(undo_client.log, undo_client.commands, Scope(uuid4()))
    refused: list[tuple[type[Refusal], Any]] = [
        (MergeRefused, lambda: undo_client.merge(Account, this, this)),
        (MergeRefused, lambda: undo_client.merge(Account, this, fund)),
        (IsDeleted, lambda: undo_client.merge(Account, this, gone)),
        (IsDeleted, lambda: undo_client.merge(Account, gone, this)),
        (NotFound, lambda: undo_client.merge(Account, this, uuid4())),
        (NotFound, lambda: undo_client.merge(Account, this, children[Contact])),
        (NotFound, lambda: elsewhere.merge(Account, this, other)),
        (InvalidFields, lambda: undo_client.merge(Account, this, other, {"colour": "other"})),
        (InvalidFields, lambda: undo_client.merge(Account, this, other, {"company": "both"})),
        (
            InvalidFields,
            lambda: undo_client.merge(Account, this, other, {"company": {"value": None}}),
        ),
        (
            InvalidFields,
            lambda: undo_client.merge(Account, this, other, {"customFields": {"value": 1}}),
        ),
        (StaleVersion, lambda: undo_client.merge(Account, this, other, expected_version=2)),
        (StaleVersion, lambda: undo_client.merge(Account, this, other, other_version=2)),
    ]
    for refusal, act in refused:
        with pytest.raises(refusal):
            act()
    undo_client.merge(Account, this, other, expected_version=1, other_version=1)
    for act in (
        lambda: undo_client.merge(Account, third, other),
        lambda: undo_client.merge(Account, other, third),
        lambda: undo_client.set(Account, other, nextAction="Wait"),
        lambda: undo_client.commands.restore(undo_client.new_scope(), Account, other),
    ):
        with pytest.raises(WasMerged) as was:
            act()
        assert was.value.merged_into == this
    with pytest.raises(AccountUnavailable) as unavailable:
        undo_client.make(Contact, other, name="Late")
    assert unavailable.value.merged_into == this


def test_a_merge_moves_no_more_than_it_can(
    undo_client: UndoClient, deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    this, other, _ = deal
    monkeypatch.setattr(merging_module, "MERGE_MOVED_MAX", 4)
    with pytest.raises(TooMuchToMerge) as refused:
        undo_client.merge(Account, this, other)
    assert (refused.value.count, refused.value.limit) == (5, 4)
    undo_client.merge(Account, other, this)


# Life goes on


def test_what_came_goes_and_returns_with_its_new_account(
    undo_client: UndoClient, deal: Deal, engine: ProjectionEngine, database: Connection
) -> None:
    this, other, children = deal
    undo_client.merge(Account, this, other)
    with pytest.raises(OpenOpportunities):
        undo_client.delete(Account, this)
    undo_client.set(Opportunity, children[Opportunity], stage="won")
    deleted = undo_client.delete(Account, this)
    assert undo_client.load(Note, children[Note]).deleted_with == this
    undo_client.undo(deleted)
    assert not undo_client.load(Note, children[Note]).is_deleted
    undo_client.delete(Account, this)
    undo_client.commands.restore(undo_client.new_scope(), Account, this)
    assert not undo_client.load(Note, children[Note]).is_deleted
    engine.catch_up()
    assert_tables_match_log(database)


def test_what_was_deleted_before_returns_to_whom_there_is(
    undo_client: UndoClient, deal: Deal, engine: ProjectionEngine, database: Connection
) -> None:
    this, other, children = deal
    gone = undo_client.delete(Note, children[Note])
    undo_client.merge(Account, this, other)
    last = undo_client.make(Account, None, **ACME)
    undo_client.merge(Account, last, this)
    assert conflicts(lambda: undo_client.undo(gone)) == [("account", "accountId", False)]
    undo_client.commands.restore(undo_client.new_scope(), Note, children[Note])
    assert undo_client.load(Note, children[Note]).account_id == last
    engine.catch_up()
    assert_tables_match_log(database)


# Undone as one


def test_undone_it_is_as_if_it_had_not_been(
    undo_client: UndoClient, deal: Deal, engine: ProjectionEngine, database: Connection
) -> None:
    this, _, _ = deal
    ids = everything(deal)
    before = whole_state(undo_client, ids)
    _, command = undo_client.merge(Account, this, deal[1], {"nextAction": "other"})
    done = whole_state(undo_client, ids)
    undone = undo_client.undo_command(command)
    assert whole_state(undo_client, ids) == before
    with pytest.raises(AlreadyUndone):
        undo_client.undo_command(command)
    redone = undo_client.undo_command(undone)
    assert whole_state(undo_client, ids) == done
    undo_client.undo_command(redone)
    assert whole_state(undo_client, ids) == before
    undo_client.merge(Account, deal[1], this)
    engine.catch_up()
    assert_tables_match_log(database)


def test_a_merge_that_took_nothing_over_is_undone_once(undo_client: UndoClient) -> None:
    this, other = (undo_client.make(Account, None, **ACME) for _ in range(2))
    _, command = undo_client.merge(Account, this, other)
    undo_client.undo_command(command)
    with pytest.raises(AlreadyUndone):
        undo_client.undo_command(command)


def test_no_part_is_undone_without_the_rest(undo_client: UndoClient, deal: Deal) -> None:
    _, command = undo_client.merge(Account, deal[0], deal[1])
    for position in undo_client.positions(command):
        with pytest.raises(PartOfAWhole) as refused:
            undo_client.undo(position)
        assert refused.value.command_id == command
    undone = undo_client.undo_command(command)
    with pytest.raises(PartOfAWhole):
        undo_client.undo(undo_client.positions(undone)[0])


def test_changes_of_other_fields_stay_and_stand_in_no_way(
    undo_client: UndoClient, deal: Deal
) -> None:
    this, other, children = deal
    _, command = undo_client.merge(Account, this, other)
    for kind, child in children.items():
        undo_client.set(kind, child, customFields={"later": True})
    undo_client.set(Account, this, priority="high")
    late = undo_client.make(Note, this, body="Added since.")
    undo_client.undo_command(command)
    for kind, child in children.items():
        now = undo_client.load(kind, child)
        assert now.account_id == other
        assert now.values["customFields"] == {"later": True}
    assert "dealValue" not in undo_client.load(Account, this).values
    assert undo_client.load(Account, this).values["priority"] == "high"
    assert undo_client.load(Note, late).account_id == this


def test_later_changes_stand_in_the_way(undo_client: UndoClient, deal: Deal) -> None:
    this, other, children = deal
    before = whole_state(undo_client, everything(deal))
    _, command = undo_client.merge(Account, this, other, {"nextAction": "other"})
    undo_client.set(Account, this, nextAction="Wait")
    undo_client.delete(Note, children[Note])
    found = conflicts(lambda: undo_client.undo_command(command))
    assert sorted(found) == [("account", "nextAction", True), ("note", "exists", True)]
    asked = UndoTarget(undo_client.positions(command), command)
    undo_client.undoing.undo(undo_client.new_scope(), asked, force=("nextAction", "exists"))
    assert whole_state(undo_client, everything(deal)) == before


def test_what_moved_on_is_not_fetched_back(undo_client: UndoClient, deal: Deal) -> None:
    this, other, _ = deal
    before = whole_state(undo_client, everything(deal))
    last = undo_client.make(Account, None, **ACME)
    _, first = undo_client.merge(Account, this, other, {"company": "other"})
    _, second = undo_client.merge(Account, last, this)
    found = conflicts(lambda: undo_client.undo_command(first))
    assert {each[1:] for each in found} == {("accountId", False), ("exists", False)}
    undo_client.undo_command(second)
    undo_client.undo_command(first)
    assert whole_state(undo_client, everything(deal)) == before


def test_a_deleted_survivor_gives_nothing_back(undo_client: UndoClient, deal: Deal) -> None:
    this, other, children = deal
    undo_client.set(Opportunity, children[Opportunity], stage="lost")
    _, command = undo_client.merge(Account, this, other)
    undo_client.delete(Account, this)
    found = conflicts(lambda: undo_client.undo_command(command))
    assert ("account", "exists", False) in found
    assert ("note", "exists", True) in found


def test_contacts_are_parted_again_where_each_was(undo_client: UndoClient) -> None:
    here, there = (undo_client.make(Account, None, **ACME) for _ in range(2))
    this = undo_client.make(Contact, here, name="Ada")
    other = undo_client.make(Contact, there, name="Ada", email="ada@example.com")
    ids: dict[UUID, type[Entity]] = {this: Contact, other: Contact}
    before = whole_state(undo_client, ids)
    merged, command = undo_client.merge(Contact, this, other)
    assert merged.outcome.entity.values["email"] == "ada@example.com"
    assert merged.outcome.entity.account_id == here
    undo_client.undo_command(command)
    assert whole_state(undo_client, ids) == before


def test_appointments_with_a_contact_are_those_of_the_one_that_stays(
    undo_client: UndoClient,
) -> None:
    account, member = (
        undo_client.make(Account, None, **ACME),
        undo_client.make(Member, None, name="Grace"),
    )
    this, other = (undo_client.make(Contact, account, name="Ada") for _ in range(2))
    what = {"title": "Call", "memberId": str(member), "durationMinutes": 30, "allowOverlap": True}
    with_other, with_this, with_nobody, gone = (
        undo_client.make(
            Appointment, account, **what, startsAt=MONDAY, **({"contactId": str(of)} if of else {})
        )
        for of in (other, this, None, other)
    )
    undo_client.delete(Appointment, gone)
    ids: dict[UUID, type[Entity]] = {this: Contact, other: Contact, with_other: Appointment}
    before = whole_state(undo_client, ids)
    merged, command = undo_client.merge(Contact, this, other)
    assert merged.moved == {"appointment": 1}
    named = [
        undo_client.load(Appointment, each).values.get("contactId")
        for each in (with_other, with_this, with_nobody, gone)
    ]
    assert named == [str(this), str(this), None, str(other)]
    undo_client.undo_command(command)
    assert whole_state(undo_client, ids) == before


# Whatever happens meanwhile


def test_two_merges_at_once_leave_one(undo_client: UndoClient) -> None:
    """Each into the other, many times over: neither both nor a deadlock."""
    for _ in range(5):
        pair = [undo_client.make(Account, None, **ACME) for _ in range(2)]
        notes = [undo_client.make(Note, each, body="x") for each in pair]
        start = threading.Barrier(2)

        def merge(this: UUID, other: UUID, start: threading.Barrier = start) -> Any:
            start.wait()
            try:
                return undo_client.merge(Account, this, other)
            except WasMerged as refused:
                return refused

        with ThreadPoolExecutor(2) as pool:
            came = list(pool.map(merge, pair, reversed(pair)))
        assert sorted(type(each).__name__ for each in came) == ["WasMerged", "tuple"]
        (alive,) = [each for each in pair if not undo_client.load(Account, each).is_deleted]
        assert {undo_client.load(Note, each).account_id for each in notes} == {alive}


def test_what_is_added_meanwhile_comes_along_or_is_refused(undo_client: UndoClient) -> None:
    for _ in range(5):
        this, other = (undo_client.make(Account, None, **ACME) for _ in range(2))
        start = threading.Barrier(2)

        def add(other: UUID = other, start: threading.Barrier = start) -> UUID | None:
            start.wait()
            try:
                return undo_client.make(Note, other, body="x")
            except AccountUnavailable:
                return None

        def merge(pair: tuple[UUID, UUID] = (this, other), start: Any = start) -> MergeOutcome:
            start.wait()
            return undo_client.merge(Account, *pair)[0]

        with ThreadPoolExecutor(2) as pool:
            added, merged = pool.submit(add), pool.submit(merge)
        note = added.result()
        assert merged.result().moved == ({} if note is None else {"note": 1})
        assert note is None or undo_client.load(Note, note).account_id == this


def test_a_rebuild_gives_the_rows_that_were_live(
    undo_client: UndoClient,
    deal: Deal,
    engine: ProjectionEngine,
    database: Connection,
    urls: Urls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though the accounts are folded apart."""
    monkeypatch.setattr(runner, "PARTITION_EVENTS", 2)
    this, other, _ = deal
    _, command = undo_client.merge(Account, this, other)
    undo_client.undo_command(command)
    undo_client.merge(Account, other, this)
    engine.catch_up()
    runner.Rebuild(urls.projector, table_definitions(), workers=1).run()
    assert_tables_match_log(database)


def test_a_parked_account_comes_back_with_what_came_to_it(
    undo_client: UndoClient, deal: Deal, database: Connection, urls: Urls
) -> None:
    this, other, _ = deal
    broken = failing_for(PROJECTIONS["accounts"], "Acme")
    ProjectionEngine(urls.projector, {**PROJECTIONS, "accounts": broken}.values()).catch_up()
    undo_client.merge(Account, this, other)
    ProjectionEngine(urls.projector, {**PROJECTIONS, "accounts": broken}.values()).catch_up()
    assert [each.error for each in retry(urls.projector, PROJECTIONS["accounts"])] == [None]
    assert_tables_match_log(database)


# Over HTTP


def merge(client: httpx.Client, plural: str, this: str, **asked: Any) -> httpx.Response:
    return client.post(f"/api/{plural}/{this}/merge", json=asked)


def test_a_merge_over_http_and_its_undo(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    this, other = api_workspace.account(), api_workspace.account(company="ACME", nextAction="Call")
    contact = api_workspace.make("contacts", name="Ada", accountId=other).json()["id"]
    merged = merge(client, "accounts", this, **{"with": other}, fields={"company": "other"})
    assert merged.status_code == 200, merged.text
    assert merged.headers["ETag"] == '"2"'
    shown = merged.json()
    assert (shown["id"], shown["company"], shown["nextAction"]) == (this, "ACME", "Call")
    assert (shown["merged"], shown["moved"]) == (other, {"contact": 1})
    found = client.get(f"/api/accounts/{this}", headers=after(merged)).json()
    assert (found["contactCount"], found["contacts"][0]["id"]) == (1, contact)
    gone = client.get(f"/api/accounts/{other}", headers=after(merged))
    assert (gone.status_code, gone.json()["code"]) == (410, "E5050")
    assert (gone.json()["mergedInto"], gone.json()["survivorId"]) == (this, this)
    listed = client.get("/api/accounts?includeStats=true", headers=after(merged)).json()
    assert [each["id"] for each in listed["items"]] == [this]
    assert listed["aggregations"]["byType"] == {"customer": 1}
    shown = client.get("/api/undo/preview", params={"eventPosition": position(merged)}).json()
    assert shown["canUndo"] is True
    undone = client.post("/api/undo", json={"eventPosition": position(merged)})
    assert undone.status_code == 200, undone.text
    assert {each["action"] for each in undone.json()["changes"]} == {"update", "restore", "move"}
    assert client.get(f"/api/accounts/{other}", headers=after(undone)).status_code == 200
    at_other = client.get(f"/api/contacts?accountId={other}", headers=after(undone)).json()
    assert [each["id"] for each in at_other["items"]] == [contact]


def position(response: httpx.Response) -> int:
    return int(response.headers["Annals-Position"])


def test_the_history_of_both_stays_readable(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    this, other, last = (
        api_workspace.account(),
        api_workspace.account(company="Other"),
        api_workspace.account(),
    )
    merge(client, "accounts", this, **{"with": other})
    merged = merge(client, "accounts", last, **{"with": this})
    gone = client.get(f"/api/accounts/{other}", headers=after(merged)).json()
    assert (gone["mergedInto"], gone["survivorId"]) == (this, last)
    own = client.get(f"/api/accounts/{other}/history").json()["items"]
    assert [each["action"] for each in own] == ["create", "merge"]
    assert own[-1]["details"] == {"mergedInto": this}
    survivor = client.get(f"/api/accounts/{last}/history").json()["items"]
    assert [each["details"].get("merged") for each in survivor] == [None, this]
    whole: list[Any] = []
    page: dict[str, Any] = {"nextCursor": 0}
    while page["nextCursor"] is not None:
        query = {"includeMerged": True, "pageSize": 2, "cursor": page["nextCursor"]}
        page = client.get(f"/api/accounts/{last}/history", params=query).json()
        whole += page["items"]
    ids = [(each["entityId"], each["action"]) for each in whole]
    assert ids == [
        (this, "create"), (other, "create"), (last, "create"),
        (other, "merge"), (this, "merge"), (this, "merge"), (last, "merge"),
    ]  # fmt: skip
    trail = client.get("/api/audit?action=merge", headers=after(merged)).json()["items"]
    assert len(trail) == 4


def test_a_merge_is_asked_for_with_a_version_and_a_key(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    this, other = api_workspace.account(), api_workspace.account()
    url = f"/api/accounts/{this}/merge"
    stale = client.post(url, json={"with": other}, headers={"If-Match": '"7"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "E5008")
    stale = client.post(url, json={"with": other, "withVersion": 7})
    assert (stale.status_code, stale.json()["entityId"]) == (412, other)
    headers = {"If-Match": '"1"', "Idempotency-Key": str(uuid4())}
    first = client.post(url, json={"with": other}, headers=headers)
    again = client.post(url, json={"with": other}, headers=headers)
    assert first.status_code == 200
    assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "E2004"),
        ({"with": "x"}, 422, "E2010"),
        ({"with": "THIS"}, 422, "E5052"),
        ({"with": str(uuid4())}, 404, "E5002"),
        ({"with": "OTHER", "fields": {"colour": "this"}}, 422, "E2005"),
        ({"with": "OTHER", "fields": {"company": "both"}}, 422, "E2006"),
        ({"with": "OTHER", "fields": []}, 422, "E2010"),
        ({"with": "OTHER", "colour": 1}, 422, "E2005"),
        ({"with": "FUND"}, 422, "E5052"),
    ],
)
def test_what_is_refused_over_http(
    api_workspace: ApiWorkspace, body: dict[str, Any], status: int, code: str
) -> None:
    this, other = api_workspace.account(), api_workspace.account()
    names = {"THIS": this, "OTHER": other, "FUND": api_workspace.account(type="investor")}
    asked = {**body, "with": names.get(body["with"], body["with"])} if "with" in body else body
    refused = api_workspace.client().post(f"/api/accounts/{this}/merge", json=asked)
    assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text


def test_merging_takes_the_right_to_write(api_workspace: ApiWorkspace) -> None:
    this, other = api_workspace.account(), api_workspace.account()
    refused = merge(api_workspace.client("read-only"), "accounts", this, **{"with": other})
    assert refused.status_code == 403


def test_contacts_are_merged_over_http(api_workspace: ApiWorkspace) -> None:
    client, account = api_workspace.client(), api_workspace.account()
    this, other = (
        api_workspace.make("contacts", name="Ada", accountId=account).json()["id"] for _ in range(2)
    )
    merged = merge(client, "contacts", this, **{"with": other})
    assert (merged.status_code, merged.json()["merged"]) == (200, other)
    gone = client.get(f"/api/contacts/{other}", headers=after(merged))
    assert (gone.status_code, gone.json()["mergedInto"]) == (410, this)
    assert client.patch(f"/api/contacts/{other}", json={"title": "x"}).json()["code"] == "E5051"
    assert client.post(f"/api/contacts/{other}/restore").json()["code"] == "E5051"
    assert client.get(f"/api/notes/{other}").status_code == 404
