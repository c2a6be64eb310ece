"""Merge: one entity survives with the children of both, and undo reverses the whole merge."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from commands import merging as merging_module
from commands.bulk import BulkAction, BulkChange, BulkCommands
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

MergeCase = tuple[UUID, UUID, dict[type[Entity], UUID]]


@pytest.fixture
def undo_client(log: EventLog, commands: EntityCommands, scope: Scope) -> UndoClient:
    return UndoClient(log, commands, scope)


@pytest.fixture
def merge_case(undo_client: UndoClient) -> MergeCase:
    """Two accounts, the second one with a child of each kind."""
    this = undo_client.make(Account, None, **ACME, nextAction="Call")
    other = undo_client.make(
        Account, None, company="ACME Inc.", type="customer", dealValue="5.00", nextAction="Write"
    )
    undo_client.make(Contact, this, name="Grace")
    return (
        this,
        other,
        {kind: undo_client.make(kind, other, **fields) for kind, fields in CHILDREN.items()},
    )


def load_states(undo_client: UndoClient, ids: dict[UUID, type[Entity]]) -> dict[UUID, Any]:
    """Return the state of these entities without their versions."""
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


def kinds_by_id(merge_case: MergeCase) -> dict[UUID, type[Entity]]:
    this, other, children = merge_case
    return {this: Account, other: Account, **{child: kind for kind, child in children.items()}}


# Results


def test_children_of_the_merged_account_move_to_the_survivor(
    undo_client: UndoClient, merge_case: MergeCase, engine: ProjectionEngine, database: Connection
) -> None:
    this, other, children = merge_case
    merged, _ = undo_client.merge(Account, this, other)
    assert merged.moved == {each.KIND: 1 for each in children}
    for kind, child in children.items():
        moved = undo_client.load(kind, child)
        assert (moved.account_id, moved.is_deleted) == (this, False)
    deleted = undo_client.load(Account, other)
    assert (deleted.is_deleted, deleted.merged_into) == (True, this)
    engine.catch_up()
    rows = database.execute(
        "SELECT id, contact_count, task_count, meeting_count, note_count, open_opportunity_count"
        " FROM read.accounts"
    ).fetchall()
    assert rows == [(this, 2, 1, 1, 1, 1)]
    assert_tables_match_log(database)


def test_missing_fields_are_taken_from_the_merged_entity(undo_client: UndoClient) -> None:
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


def test_chosen_status_is_taken_over_and_undone(undo_client: UndoClient) -> None:
    this = undo_client.make(Account, None, **ACME)
    other = undo_client.make(Account, None, **ACME, status="active")
    _, command = undo_client.merge(Account, this, other, {"status": "other"})
    assert undo_client.load(Account, this).status == "active"
    undo_client.undo_command(command)
    assert undo_client.load(Account, this).status == "prospect"


def test_assignment_to_a_deleted_member_is_not_taken_over(undo_client: UndoClient) -> None:
    ada = undo_client.make(Member, name="Ada")
    this = undo_client.make(Account, None, **ACME)
    other = undo_client.make(Account, None, **ACME, assignedTo=str(ada))
    undo_client.delete(Member, ada)
    with pytest.raises(NotAMember):
        undo_client.merge(Account, this, other, {"assignedTo": "other"})
    undo_client.merge(Account, this, other)
    assert "assignedTo" not in undo_client.load(Account, this).values


def test_repeated_merge_records_nothing(undo_client: UndoClient, merge_case: MergeCase) -> None:
    this, other, _ = merge_case
    merged, _ = undo_client.merge(Account, this, other)
    again, command = undo_client.merge(Account, this, other)
    assert again.outcome.entity.version == merged.outcome.entity.version
    assert undo_client.positions(command) == ()


# Refusals


def test_invalid_merges_and_changes_of_merged_entities_are_refused(
    undo_client: UndoClient, merge_case: MergeCase
) -> None:
    this, other, children = merge_case
    deleted, third = (
        undo_client.make(Account, None, **ACME),
        undo_client.make(Account, None, **ACME),
    )
    undo_client.delete(Account, deleted)
    fund = undo_client.make(Account, None, company="Fund", type="investor")
    elsewhere = UndoClient(undo_client.log, undo_client.commands, Scope(uuid4()))
    refused: list[tuple[type[Refusal], Any]] = [
        (MergeRefused, lambda: undo_client.merge(Account, this, this)),
        (MergeRefused, lambda: undo_client.merge(Account, this, fund)),
        (IsDeleted, lambda: undo_client.merge(Account, this, deleted)),
        (IsDeleted, lambda: undo_client.merge(Account, deleted, this)),
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
        with pytest.raises(WasMerged) as already_merged:
            act()
        assert already_merged.value.merged_into == this
    with pytest.raises(AccountUnavailable) as unavailable:
        undo_client.make(Contact, other, name="Late")
    assert unavailable.value.merged_into == this


def test_merge_with_too_many_children_is_refused(
    undo_client: UndoClient, merge_case: MergeCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    this, other, _ = merge_case
    monkeypatch.setattr(merging_module, "MERGE_MOVED_MAX", 4)
    with pytest.raises(TooMuchToMerge) as refused:
        undo_client.merge(Account, this, other)
    assert (refused.value.count, refused.value.limit) == (5, 4)
    undo_client.merge(Account, other, this)


# Changes after a merge


def test_moved_children_are_deleted_and_restored_with_the_survivor(
    undo_client: UndoClient, merge_case: MergeCase, engine: ProjectionEngine, database: Connection
) -> None:
    this, other, children = merge_case
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


def test_child_deleted_before_the_merge_is_restored_to_the_last_survivor(
    undo_client: UndoClient, merge_case: MergeCase, engine: ProjectionEngine, database: Connection
) -> None:
    this, other, children = merge_case
    deleted = undo_client.delete(Note, children[Note])
    undo_client.merge(Account, this, other)
    last = undo_client.make(Account, None, **ACME)
    undo_client.merge(Account, last, this)
    assert conflicts(lambda: undo_client.undo(deleted)) == [("account", "accountId", False)]
    undo_client.commands.restore(undo_client.new_scope(), Note, children[Note])
    assert undo_client.load(Note, children[Note]).account_id == last
    engine.catch_up()
    assert_tables_match_log(database)


def test_children_deleted_before_the_merge_are_restored_in_bulk_to_the_last_survivor(
    undo_client: UndoClient, merge_case: MergeCase, engine: ProjectionEngine, database: Connection
) -> None:
    this, other, children = merge_case
    undo_client.delete(Note, children[Note])
    kept = undo_client.make(Note, this, body="Kept")
    undo_client.delete(Note, kept)
    undo_client.merge(Account, this, other)
    last = undo_client.make(Account, None, **ACME)
    undo_client.merge(Account, last, this)
    bulk = BulkCommands(undo_client.log, clock=lambda: datetime.now(UTC))
    outcome = bulk.apply(
        undo_client.new_scope(),
        Note,
        [children[Note], kept],
        BulkChange(BulkAction.RESTORE),
    )
    assert outcome.failed == []
    assert {undo_client.load(Note, each).account_id for each in (children[Note], kept)} == {last}
    engine.catch_up()
    assert_tables_match_log(database)


# Undo


def test_undo_and_redo_of_a_merge_restore_the_exact_state(
    undo_client: UndoClient, merge_case: MergeCase, engine: ProjectionEngine, database: Connection
) -> None:
    this, _, _ = merge_case
    ids = kinds_by_id(merge_case)
    before = load_states(undo_client, ids)
    _, command = undo_client.merge(Account, this, merge_case[1], {"nextAction": "other"})
    done = load_states(undo_client, ids)
    undone = undo_client.undo_command(command)
    assert load_states(undo_client, ids) == before
    with pytest.raises(AlreadyUndone):
        undo_client.undo_command(command)
    redone = undo_client.undo_command(undone)
    assert load_states(undo_client, ids) == done
    undo_client.undo_command(redone)
    assert load_states(undo_client, ids) == before
    undo_client.merge(Account, merge_case[1], this)
    engine.catch_up()
    assert_tables_match_log(database)


def test_merge_that_changed_no_field_is_undone_once(undo_client: UndoClient) -> None:
    this, other = (undo_client.make(Account, None, **ACME) for _ in range(2))
    _, command = undo_client.merge(Account, this, other)
    undo_client.undo_command(command)
    with pytest.raises(AlreadyUndone):
        undo_client.undo_command(command)


def test_single_event_of_a_merge_cannot_be_undone(
    undo_client: UndoClient, merge_case: MergeCase
) -> None:
    _, command = undo_client.merge(Account, merge_case[0], merge_case[1])
    for position in undo_client.positions(command):
        with pytest.raises(PartOfAWhole) as refused:
            undo_client.undo(position)
        assert refused.value.command_id == command
    undone = undo_client.undo_command(command)
    with pytest.raises(PartOfAWhole):
        undo_client.undo(undo_client.positions(undone)[0])


def test_later_changes_of_other_fields_survive_the_undo(
    undo_client: UndoClient, merge_case: MergeCase
) -> None:
    this, other, children = merge_case
    _, command = undo_client.merge(Account, this, other)
    for kind, child in children.items():
        undo_client.set(kind, child, customFields={"later": True})
    undo_client.set(Account, this, priority="high")
    late = undo_client.make(Note, this, body="Added since.")
    undo_client.undo_command(command)
    for kind, child in children.items():
        moved = undo_client.load(kind, child)
        assert moved.account_id == other
        assert moved.values["customFields"] == {"later": True}
    assert "dealValue" not in undo_client.load(Account, this).values
    assert undo_client.load(Account, this).values["priority"] == "high"
    assert undo_client.load(Note, late).account_id == this


def test_later_changes_of_the_same_fields_are_conflicts_that_can_be_forced(
    undo_client: UndoClient, merge_case: MergeCase
) -> None:
    this, other, children = merge_case
    before = load_states(undo_client, kinds_by_id(merge_case))
    _, command = undo_client.merge(Account, this, other, {"nextAction": "other"})
    undo_client.set(Account, this, nextAction="Wait")
    undo_client.delete(Note, children[Note])
    found = conflicts(lambda: undo_client.undo_command(command))
    assert sorted(found) == [("account", "nextAction", True), ("note", "exists", True)]
    target = UndoTarget(undo_client.positions(command), command)
    undo_client.undoing.undo(undo_client.new_scope(), target, force=("nextAction", "exists"))
    assert load_states(undo_client, kinds_by_id(merge_case)) == before


def test_merge_cannot_be_undone_before_a_later_merge_of_its_survivor(
    undo_client: UndoClient, merge_case: MergeCase
) -> None:
    this, other, _ = merge_case
    before = load_states(undo_client, kinds_by_id(merge_case))
    last = undo_client.make(Account, None, **ACME)
    _, first = undo_client.merge(Account, this, other, {"company": "other"})
    _, second = undo_client.merge(Account, last, this)
    found = conflicts(lambda: undo_client.undo_command(first))
    assert {each[1:] for each in found} == {("accountId", False), ("exists", False)}
    undo_client.undo_command(second)
    undo_client.undo_command(first)
    assert load_states(undo_client, kinds_by_id(merge_case)) == before


def test_merge_into_a_deleted_survivor_cannot_be_undone(
    undo_client: UndoClient, merge_case: MergeCase
) -> None:
    this, other, children = merge_case
    undo_client.set(Opportunity, children[Opportunity], stage="lost")
    _, command = undo_client.merge(Account, this, other)
    undo_client.delete(Account, this)
    found = conflicts(lambda: undo_client.undo_command(command))
    assert ("account", "exists", False) in found
    assert ("note", "exists", True) in found


def test_undo_returns_merged_contacts_to_their_accounts(undo_client: UndoClient) -> None:
    here, there = (undo_client.make(Account, None, **ACME) for _ in range(2))
    this = undo_client.make(Contact, here, name="Ada")
    other = undo_client.make(Contact, there, name="Ada", email="ada@example.com")
    ids: dict[UUID, type[Entity]] = {this: Contact, other: Contact}
    before = load_states(undo_client, ids)
    merged, command = undo_client.merge(Contact, this, other)
    assert merged.outcome.entity.values["email"] == "ada@example.com"
    assert merged.outcome.entity.account_id == here
    undo_client.undo_command(command)
    assert load_states(undo_client, ids) == before


def test_appointments_of_a_merged_contact_move_to_the_survivor(
    undo_client: UndoClient,
) -> None:
    account, member = (
        undo_client.make(Account, None, **ACME),
        undo_client.make(Member, None, name="Grace"),
    )
    this, other = (undo_client.make(Contact, account, name="Ada") for _ in range(2))
    fields = {"title": "Call", "memberId": str(member), "durationMinutes": 30, "allowOverlap": True}
    with_other, with_this, without_contact, deleted = (
        undo_client.make(
            Appointment,
            account,
            **fields,
            startsAt=MONDAY,
            **({"contactId": str(contact)} if contact else {}),
        )
        for contact in (other, this, None, other)
    )
    undo_client.delete(Appointment, deleted)
    ids: dict[UUID, type[Entity]] = {this: Contact, other: Contact, with_other: Appointment}
    before = load_states(undo_client, ids)
    merged, command = undo_client.merge(Contact, this, other)
    assert merged.moved == {"appointment": 1}
    contact_ids = [
        undo_client.load(Appointment, each).values.get("contactId")
        for each in (with_other, with_this, without_contact, deleted)
    ]
    assert contact_ids == [str(this), str(this), None, str(other)]
    undo_client.undo_command(command)
    assert load_states(undo_client, ids) == before


# Concurrency, rebuilds and retries


def test_of_two_opposite_concurrent_merges_one_succeeds(undo_client: UndoClient) -> None:
    """The merges neither both succeed nor deadlock."""
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
            outcomes = list(pool.map(merge, pair, reversed(pair)))
        assert sorted(type(each).__name__ for each in outcomes) == ["WasMerged", "tuple"]
        (survivor,) = [each for each in pair if not undo_client.load(Account, each).is_deleted]
        assert {undo_client.load(Note, each).account_id for each in notes} == {survivor}


def test_child_added_during_a_merge_moves_or_is_refused(undo_client: UndoClient) -> None:
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


def test_rebuild_after_merges_gives_the_live_rows(
    undo_client: UndoClient,
    merge_case: MergeCase,
    engine: ProjectionEngine,
    database: Connection,
    urls: Urls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The accounts are folded in different processes."""
    monkeypatch.setattr(runner, "PART_EVENTS_MIN", 2)
    this, other, _ = merge_case
    _, command = undo_client.merge(Account, this, other)
    undo_client.undo_command(command)
    undo_client.merge(Account, other, this)
    engine.catch_up()
    runner.Rebuild(urls.projector, table_definitions(), workers=4).run()
    assert_tables_match_log(database)


def test_retry_of_a_parked_account_includes_its_moved_children(
    undo_client: UndoClient, merge_case: MergeCase, database: Connection, urls: Urls
) -> None:
    this, other, _ = merge_case
    broken = failing_for(PROJECTIONS["accounts"], "Acme")
    ProjectionEngine(urls.projector, {**PROJECTIONS, "accounts": broken}.values()).catch_up()
    undo_client.merge(Account, this, other)
    ProjectionEngine(urls.projector, {**PROJECTIONS, "accounts": broken}.values()).catch_up()
    assert [each.error for each in retry(urls.projector, PROJECTIONS["accounts"])] == [None]
    assert_tables_match_log(database)


# Over HTTP


def merge(client: httpx.Client, plural: str, this: str, **body: Any) -> httpx.Response:
    return client.post(f"/api/{plural}/{this}/merge", json=body)


def test_merge_over_http_is_undone(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    this, other = api_workspace.account(), api_workspace.account(company="ACME", nextAction="Call")
    contact = api_workspace.make("contacts", name="Ada", accountId=other).json()["id"]
    merged = merge(client, "accounts", this, **{"with": other}, fields={"company": "other"})
    assert merged.status_code == 200, merged.text
    assert merged.headers["ETag"].startswith('"2-')
    shown = merged.json()
    assert (shown["id"], shown["company"], shown["nextAction"]) == (this, "ACME", "Call")
    assert (shown["merged"], shown["moved"]) == (other, {"contact": 1})
    found = client.get(f"/api/accounts/{this}", headers=after(merged)).json()
    assert (found["contactCount"], found["contacts"][0]["id"]) == (1, contact)
    deleted = client.get(f"/api/accounts/{other}", headers=after(merged))
    assert (deleted.status_code, deleted.json()["code"]) == (410, "E5050")
    assert (deleted.json()["mergedInto"], deleted.json()["survivorId"]) == (this, this)
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


def test_history_of_both_accounts_stays_readable(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    this, other, last = (
        api_workspace.account(),
        api_workspace.account(company="Other"),
        api_workspace.account(),
    )
    merge(client, "accounts", this, **{"with": other})
    merged = merge(client, "accounts", last, **{"with": this})
    deleted = client.get(f"/api/accounts/{other}", headers=after(merged)).json()
    assert (deleted["mergedInto"], deleted["survivorId"]) == (this, last)
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


def test_merge_request_honours_if_match_and_idempotency_key(api_workspace: ApiWorkspace) -> None:
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
def test_invalid_merge_request_is_refused(
    api_workspace: ApiWorkspace, body: dict[str, Any], status: int, code: str
) -> None:
    this, other = api_workspace.account(), api_workspace.account()
    ids = {"THIS": this, "OTHER": other, "FUND": api_workspace.account(type="investor")}
    request = {**body, "with": ids.get(body["with"], body["with"])} if "with" in body else body
    refused = api_workspace.client().post(f"/api/accounts/{this}/merge", json=request)
    assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text


def test_merge_requires_write_permission(api_workspace: ApiWorkspace) -> None:
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
    deleted = client.get(f"/api/contacts/{other}", headers=after(merged))
    assert (deleted.status_code, deleted.json()["mergedInto"]) == (410, this)
    assert client.patch(f"/api/contacts/{other}", json={"title": "x"}).json()["code"] == "E5051"
    assert client.post(f"/api/contacts/{other}/restore").json()["code"] == "E5051"
    assert client.get(f"/api/notes/{other}").status_code == 404
