"""Undo: done and undone is as if it had never been done, and an undo can be undone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from commands.entities import EntityCommands
from commands.undo import commands as undo_module
from commands.undo.commands import UndoCommands, UndoTarget
from domain.account import Account
from domain.contact import Contact
from domain.member import Member
from domain.note import Note
from domain.opportunity import Opportunity
from domain.shared.refusals import (
    AlreadyUndone,
    Conflict,
    InvalidFields,
    NotAMember,
    NothingToUndo,
    TooMuchToUndo,
    UndoConflict,
)
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from tests.support.api_server import ApiWorkspace, after, created
from tests.support.undo_client import ACME, UndoClient, conflicts


@pytest.fixture
def undo_client(log: EventLog, commands: EntityCommands, scope: Scope) -> UndoClient:
    return UndoClient(log, commands, scope)


# By position


def test_a_change_is_taken_back_and_says_what_it_takes_back(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME, nextAction="Call")
    scope = undo_client.new_scope()
    position = undo_client.set(
        Account, account, scope, nextAction="Write", customFields={"vip": True}
    )
    undone = undo_client.undo(position)
    now = undo_client.load(Account, account)
    assert now.values["nextAction"] == "Call"
    assert "customFields" not in now.values
    with undo_client.log.transaction(undo_client.scope) as connection:
        row = connection.execute(
            "SELECT topic, metadata->>'undoes', metadata->>'undoesPosition', stream_version"
            " FROM events WHERE position = %s",
            (undone.position,),
        ).fetchone()
    assert row == ("account.updated", scope.command_id, str(position), 3)


def test_a_won_deal_is_won_no_more(undo_client: UndoClient) -> None:
    deal = undo_client.make(Opportunity, name="Renewal", stage="negotiating")
    position = undo_client.set(Opportunity, deal, stage="won")
    undone = undo_client.undo(position)
    assert undo_client.load(Opportunity, deal).status == "negotiating"
    undo_client.undo(undone.position)
    assert undo_client.load(Opportunity, deal).status == "won"


def test_an_assignment_is_taken_back_as_long_as_there_is_somebody_to_take_it(
    undo_client: UndoClient,
) -> None:
    ada, grace = (str(undo_client.make(Member, name=name)) for name in ("Ada", "Grace"))
    account = undo_client.make(Account, None, **ACME, assignedTo=ada)
    position = undo_client.set(Account, account, assignedTo=grace)
    gone = undo_client.delete(Member, UUID(ada))
    with pytest.raises(NotAMember) as refused:
        undo_client.undo(position)
    assert str(refused.value.member_id) == ada
    undo_client.undo(gone)
    undo_client.undo(position)
    assert undo_client.load(Account, account).values["assignedTo"] == ada


def test_a_deletion_comes_back_with_what_went_along_and_nothing_else(
    undo_client: UndoClient,
) -> None:
    account = undo_client.make(Account, None, **ACME)
    ada = undo_client.make(Contact, account, name="Ada")
    note = undo_client.make(Note, account, body="Prefers mornings.")
    undo_client.delete(Note, note)
    position = undo_client.delete(Account, account)
    undone = undo_client.undo(position)
    assert len(undone.plan.steps) == 2
    assert not undo_client.load(Account, account).is_deleted
    assert not undo_client.load(Contact, ada).is_deleted
    assert undo_client.load(Note, note).is_deleted
    restored_at = undone.plan.steps[0].events[0].originator_version
    with undo_client.log.transaction(undo_client.scope) as connection:
        row = connection.execute(
            "SELECT position FROM events WHERE stream_id = %s AND stream_version = %s",
            (account, restored_at),
        ).fetchone()
    assert row is not None
    undo_client.undo(row[0])
    assert undo_client.load(Contact, ada).deleted_with == account
    assert undo_client.load(Account, account).is_deleted
    undo_client.commands.restore(undo_client.new_scope(), Account, account)
    assert not undo_client.load(Contact, ada).is_deleted


def test_the_second_deletion_takes_back_only_what_it_took(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    ada = undo_client.make(Contact, account, name="Ada")
    undo_client.delete(Account, account)
    undo_client.commands.restore(undo_client.new_scope(), Account, account)
    undo_client.delete(Contact, ada)
    undo_client.undo(undo_client.delete(Account, account))
    assert undo_client.load(Contact, ada).is_deleted


# What stands in the way


def test_later_changes_of_the_same_field_are_named_and_can_be_forced(
    undo_client: UndoClient,
) -> None:
    account = undo_client.make(Account, None, **ACME, nextAction="Call", priority="low")
    position = undo_client.set(Account, account, nextAction="Write", priority="high")
    grace = replace(undo_client.scope, actor=Actor("member", "grace", "Grace"))
    later = undo_client.set(Account, account, grace, nextAction="Wait", priority="urgent")
    undo_client.set(Account, account, customFields={"vip": True})
    with pytest.raises(UndoConflict) as refused:
        undo_client.undo(position)
    action, priority = refused.value.conflicts
    assert (action.field, priority.field) == ("nextAction", "priority")
    assert (action.position, action.actor["name"], action.can_force) == (later, "Grace", True)
    assert "nextAction by Grace" in str(refused.value)
    left = conflicts(lambda: undo_client.undo(position, force=("nextAction",)))
    assert left == [("account", "priority", True)]
    undo_client.undo(position, force=("nextAction", f"{account}/priority"))
    facts = undo_client.load(Account, account).values
    assert (facts["nextAction"], facts["priority"]) == ("Call", "low")
    assert facts["customFields"] == {"vip": True}


def test_what_is_as_it_was_is_no_conflict(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME, priority="low")
    position = undo_client.set(Account, account, priority="high")
    undo_client.set(Account, account, priority="low")
    undone = undo_client.undo(position)
    assert undone.plan.steps == []
    assert undo_client.load(Account, account).version == 3


def test_what_was_undone_itself_is_no_conflict(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME, priority="low")
    first = undo_client.set(Account, account, priority="high")
    undo_client.undo(undo_client.set(Account, account, priority="urgent"))
    undo_client.undo(first)
    assert undo_client.load(Account, account).values["priority"] == "low"


def test_what_was_created_and_changed_since_goes_only_by_force(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    (position,) = undo_client.positions(command_of(undo_client, account))
    undo_client.set(Account, account, nextAction="Call", status="active")
    assert conflicts(lambda: undo_client.undo(position)) == [
        ("account", "nextAction", True),
        ("account", "status", True),
    ]
    undo_client.undo(position, force=("nextAction", "status"))
    assert undo_client.load(Account, account).is_deleted


def command_of(undo_client: UndoClient, entity_id: UUID) -> str:
    with undo_client.log.transaction(undo_client.scope) as connection:
        row = connection.execute(
            "SELECT metadata->>'commandId' FROM events WHERE stream_id = %s AND stream_version = 1",
            (entity_id,),
        ).fetchone()
    assert row is not None
    return str(row[0])


def test_an_account_does_not_go_from_under_what_was_added(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    deal = undo_client.make(Opportunity, account, name="Renewal")
    command = command_of(undo_client, account)
    with pytest.raises(UndoConflict) as refused:
        undo_client.undo_command(command)
    (conflict,) = refused.value.conflicts
    assert (conflict.kind, conflict.entity_id, conflict.field, conflict.can_force) == (
        "opportunity", deal, "accountId", False,
    )  # fmt: skip
    position = undo_client.positions(command)[0]
    assert conflicts(lambda: undo_client.undo(position, force=("accountId",)))
    undo_client.delete(Opportunity, deal)
    undo_client.undo_command(command)
    assert undo_client.load(Account, account).is_deleted


def test_nothing_comes_back_to_an_account_that_is_gone(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    ada = undo_client.make(Contact, account, name="Ada")
    position = undo_client.delete(Contact, ada)
    gone = undo_client.delete(Account, account)
    with pytest.raises(UndoConflict) as refused:
        undo_client.undo(position)
    assert [(each.field, each.position) for each in refused.value.conflicts] == [
        ("accountId", gone)
    ]


def test_what_is_deleted_is_not_changed_back(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    position = undo_client.set(Account, account, nextAction="Call")
    undo_client.delete(Account, account)
    found = conflicts(lambda: undo_client.undo(position, force=("exists", "nextAction")))
    assert found == [("account", "exists", False)]


def test_what_comes_of_it_has_to_be_valid(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME, dealValue="5.00")
    position = undo_client.set(Account, account, dealValue=None)
    undo_client.set(Account, account, type="investor")
    with pytest.raises(InvalidFields):
        undo_client.undo(position)
    plan = undo_client.undoing.preview(undo_client.scope, UndoTarget((position,)))
    assert [type(each) for each in plan.refusals] == [InvalidFields]


def test_a_command_is_undone_where_it_is_not_yet(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    scope = undo_client.new_scope()
    undo_client.set(Account, account, scope, nextAction="Call", status="active")
    updated, moved = undo_client.positions(scope.command_id)
    undo_client.undo(moved)
    undo_client.undo_command(scope.command_id)
    assert "nextAction" not in undo_client.load(Account, account).values
    with pytest.raises(AlreadyUndone):
        undo_client.undo(updated)


def test_a_plan_is_made_anew_where_somebody_is_faster(
    undo_client: UndoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = undo_client.make(Account, None, **ACME)
    position = undo_client.set(Account, account, nextAction="Call")
    record, times = UndoCommands._record, []

    def outrun(self: UndoCommands, loaded: Any, plan: Any) -> int:
        times.append(1)
        if len(times) == 1:
            with other_thread() as pool:
                pool.submit(undo_client.set, Account, account, nextAction="Write").result()
        return record(self, loaded, plan)

    monkeypatch.setattr(UndoCommands, "_record", outrun)
    assert conflicts(lambda: undo_client.undo(position)) == [("account", "nextAction", True)]
    assert times == [1]


def other_thread() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1)


def test_there_are_bounds(undo_client: UndoClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NothingToUndo):
        undo_client.undo(2**40)
    account = undo_client.make(Account, None, **ACME)
    with pytest.raises(NothingToUndo):
        undo_client.undoing.undo(
            undo_client.scope,
            UndoTarget(undo_client.positions(command_of(undo_client, account)), "another"),
        )
    undo_client.make(Contact, account, name="Ada")
    monkeypatch.setattr(undo_module, "UNDO_EVENTS_MAX", 1)
    with pytest.raises(TooMuchToUndo):
        undo_client.undo(undo_client.delete(Account, account))


def test_another_workspace_has_nothing_of_it(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    positions = undo_client.positions(command_of(undo_client, account))
    with pytest.raises(NothingToUndo):
        undo_client.undoing.undo(Scope(uuid4()), UndoTarget(positions))


def test_a_conflict_is_told_as_it_is_on_the_wire() -> None:
    from runtime.errors import as_api_error

    at = datetime(2026, 1, 31, tzinfo=UTC)
    conflict = Conflict("account", UUID(int=1), "status", 9, {"id": "ada"}, at, True)
    assert as_api_error(UndoConflict([conflict])).facts["conflicts"] == [
        {
            "kind": "account",
            "entityId": str(UUID(int=1)),
            "field": "status",
            "position": 9,
            "actor": {"id": "ada"},
            "recordedAt": at.isoformat(),
            "canForce": True,
        }
    ]


# Over HTTP


def undo(client: httpx.Client, **asked: Any) -> httpx.Response:
    return client.post("/api/undo", json=asked)


def preview(client: httpx.Client, **asked: Any) -> dict[str, Any]:
    response = client.get("/api/undo/preview", params=asked)
    assert response.status_code == 200, response.text
    shown: dict[str, Any] = response.json()
    return shown


def test_a_write_names_its_command_and_that_is_undone(api_workspace: ApiWorkspace) -> None:
    client, url = api_workspace.client(), f"/api/accounts/{api_workspace.account()}"
    changed = client.patch(url, json={"nextAction": "Call", "status": "active"})
    command = changed.headers["Annals-Command"]
    shown = preview(client, commandId=command)
    assert shown["canUndo"] is True
    assert [each["action"] for each in shown["changes"]] == ["status_change", "update"]
    assert shown["changes"][1]["changes"] == [
        {"field": "nextAction", "before": "Call", "after": None}
    ]
    undone = undo(client, commandId=command)
    assert undone.status_code == 200, undone.text
    assert undone.json()["changes"] == shown["changes"]
    assert undone.json()["commandId"] == undone.headers["Annals-Command"]
    found = client.get(url, headers=after(undone)).json()
    assert (found["nextAction"], found["status"], found["version"]) == (None, "prospect", 5)
    again = undo(client, commandId=command)
    assert (again.status_code, again.json()["code"]) == (409, "E5015")
    assert again.json()["undoneBy"] == undone.json()["commandId"]
    assert preview(client, commandId=command)["obstacles"][0]["code"] == "E5015"
    redone = undo(client, commandId=again.json()["undoneBy"])
    assert client.get(url, headers=after(redone)).json()["nextAction"] == "Call"


def test_the_trail_and_the_history_call_it_undo(api_workspace: ApiWorkspace) -> None:
    client, url = api_workspace.client(), f"/api/accounts/{api_workspace.account()}"
    position = int(client.patch(url, json={"nextAction": "x"}).headers["Annals-Position"])
    undone = undo(client, eventPosition=position)
    items = client.get("/api/audit?action=undo", headers=after(undone)).json()["items"]
    assert [(each["topic"], each["undoesPosition"]) for each in items] == [
        ("account.updated", position)
    ]
    assert items[0]["command"] == "undo"
    last = client.get(f"{url}/history").json()["items"][-1]
    assert (last["action"], last["undoesPosition"]) == ("undo", position)


def test_a_deletion_over_http_is_undone_with_its_children(api_workspace: ApiWorkspace) -> None:
    client, account = api_workspace.client(), api_workspace.account()
    contact = api_workspace.make("contacts", name="Ada", accountId=account).headers["Location"]
    deleted = client.delete(f"/api/accounts/{account}")
    undone = undo(client, eventPosition=int(deleted.headers["Annals-Position"]))
    assert [each["action"] for each in undone.json()["changes"]] == ["restore", "restore"]
    assert client.get(contact, headers=after(undone)).status_code == 200


def test_a_conflict_over_http_is_shown_before_and_refused(api_workspace: ApiWorkspace) -> None:
    client, url = api_workspace.client(), f"/api/accounts/{api_workspace.account()}"
    position = int(client.patch(url, json={"nextAction": "a"}).headers["Annals-Position"])
    client.patch(url, json={"nextAction": "b"})
    shown = preview(client, eventPosition=position)
    assert shown["canUndo"] is False
    refused = undo(client, eventPosition=position)
    assert (refused.status_code, refused.json()["code"]) == (409, "E5014")
    assert refused.json()["conflicts"] == shown["conflicts"]
    assert shown["conflicts"][0]["actor"]["name"] == "admin key"
    forced = undo(client, eventPosition=position, force=["nextAction"])
    assert forced.json()["changes"] == shown["changes"]


def test_what_has_left_the_house_stays_out(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    issued = created(client.post("/api/keys", json={"name": "x", "role": "member"}))
    refused = undo(client, commandId=issued.headers["Annals-Command"])
    assert (refused.status_code, refused.json()["code"]) == (409, "E5016")
    assert refused.json()["positions"] == [int(issued.headers["Annals-Position"])]
    shown = preview(client, eventPosition=int(issued.headers["Annals-Position"]))
    assert shown["obstacles"][0]["code"] == "E5016"


def test_undoing_takes_what_doing_took(api_workspace: ApiWorkspace) -> None:
    member = api_workspace.make("members", name="Grace")
    position = int(member.headers["Annals-Position"])
    for role in ("member", "read-only", "auditor"):
        refused = undo(api_workspace.client(role), eventPosition=position)
        assert (refused.status_code, refused.json()["code"]) == (403, "E1008"), role
        refused = api_workspace.client(role).get(f"/api/undo/preview?eventPosition={position}")
        assert refused.status_code == 403
    account = api_workspace.make("accounts", **ACME)
    allowed = undo(
        api_workspace.client("member"), eventPosition=int(account.headers["Annals-Position"])
    )
    assert allowed.status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "E2010"),
        ({"eventPosition": 1, "commandId": "c"}, "E2010"),
        ({"eventPosition": "1"}, "E2008"),
        ({"eventPosition": 0}, "E2008"),
        ({"eventPosition": True}, "E2008"),
        ({"commandId": ""}, "E2004"),
        ({"commandId": "c" * 129}, "E2007"),
        ({"commandId": "a\u0000b"}, "E2010"),
        ({"eventPosition": 1, "force": "status"}, "E2010"),
        ({"eventPosition": 1, "force": ["x"] * 501}, "E2007"),
        ({"eventPosition": 1, "colour": "red"}, "E2005"),
    ],
)
def test_a_request_that_says_too_little_or_too_much(
    api_workspace: ApiWorkspace, body: dict[str, Any], code: str
) -> None:
    refused = undo(api_workspace.client(), **body)
    assert (refused.status_code, refused.json()["code"]) == (422, code), refused.text


@pytest.mark.parametrize(
    "query", ["", "eventPosition=1&commandId=c", "eventPosition=0", "commandId=", "x=1"]
)
def test_a_preview_that_is_not_asked_for_properly(api_workspace: ApiWorkspace, query: str) -> None:
    refused = api_workspace.client().get(f"/api/undo/preview?{query}")
    assert refused.status_code == 400


def test_what_there_is_not_is_not_found(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    for asked in ({"eventPosition": 2**60}, {"commandId": str(uuid4())}):
        missing = undo(client, **asked)
        assert (missing.status_code, missing.json()["code"]) == (404, "E5017")
        assert client.get("/api/undo/preview", params=asked).status_code == 404
