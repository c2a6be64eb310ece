"""Undo: restores the state before a command, and can itself be undone."""

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


def test_undo_of_a_change_restores_values_and_names_the_undone_event(
    undo_client: UndoClient,
) -> None:
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


def test_undo_reopens_a_won_opportunity(undo_client: UndoClient) -> None:
    deal = undo_client.make(Opportunity, name="Renewal", stage="negotiating")
    position = undo_client.set(Opportunity, deal, stage="won")
    undone = undo_client.undo(position)
    assert undo_client.load(Opportunity, deal).status == "negotiating"
    undo_client.undo(undone.position)
    assert undo_client.load(Opportunity, deal).status == "won"


def test_assignment_is_undone_only_if_the_former_member_exists(
    undo_client: UndoClient,
) -> None:
    ada, grace = (str(undo_client.make(Member, name=name)) for name in ("Ada", "Grace"))
    account = undo_client.make(Account, None, **ACME, assignedTo=ada)
    position = undo_client.set(Account, account, assignedTo=grace)
    member_deleted = undo_client.delete(Member, UUID(ada))
    with pytest.raises(NotAMember) as refused:
        undo_client.undo(position)
    assert str(refused.value.member_id) == ada
    undo_client.undo(member_deleted)
    undo_client.undo(position)
    assert undo_client.load(Account, account).values["assignedTo"] == ada


def test_undo_of_a_deletion_restores_only_the_children_deleted_with_it(
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


def test_undo_of_a_second_deletion_restores_only_what_that_one_deleted(
    undo_client: UndoClient,
) -> None:
    account = undo_client.make(Account, None, **ACME)
    ada = undo_client.make(Contact, account, name="Ada")
    undo_client.delete(Account, account)
    undo_client.commands.restore(undo_client.new_scope(), Account, account)
    undo_client.delete(Contact, ada)
    undo_client.undo(undo_client.delete(Account, account))
    assert undo_client.load(Contact, ada).is_deleted


# Conflicts


def test_later_changes_of_the_same_field_are_conflicts_that_can_be_forced(
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
    remaining = conflicts(lambda: undo_client.undo(position, force=("nextAction",)))
    assert remaining == [("account", "priority", True)]
    undo_client.undo(position, force=("nextAction", f"{account}/priority"))
    values = undo_client.load(Account, account).values
    assert (values["nextAction"], values["priority"]) == ("Call", "low")
    assert values["customFields"] == {"vip": True}


def test_field_that_was_reverted_since_is_no_conflict(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME, priority="low")
    position = undo_client.set(Account, account, priority="high")
    undo_client.set(Account, account, priority="low")
    undone = undo_client.undo(position)
    assert undone.plan.steps == []
    assert undo_client.load(Account, account).version == 3


def test_later_change_that_was_undone_is_no_conflict(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME, priority="low")
    first = undo_client.set(Account, account, priority="high")
    undo_client.undo(undo_client.set(Account, account, priority="urgent"))
    undo_client.undo(first)
    assert undo_client.load(Account, account).values["priority"] == "low"


def test_undo_of_a_creation_with_later_changes_has_to_be_forced(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    (position,) = undo_client.positions(load_creating_command(undo_client, account))
    undo_client.set(Account, account, nextAction="Call", status="active")
    assert conflicts(lambda: undo_client.undo(position)) == [
        ("account", "nextAction", True),
        ("account", "status", True),
    ]
    undo_client.undo(position, force=("nextAction", "status"))
    assert undo_client.load(Account, account).is_deleted


def load_creating_command(undo_client: UndoClient, entity_id: UUID) -> str:
    with undo_client.log.transaction(undo_client.scope) as connection:
        row = connection.execute(
            "SELECT metadata->>'commandId' FROM events WHERE stream_id = %s AND stream_version = 1",
            (entity_id,),
        ).fetchone()
    assert row is not None
    return str(row[0])


def test_creation_of_an_account_with_children_cannot_be_undone(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    deal = undo_client.make(Opportunity, account, name="Renewal")
    command = load_creating_command(undo_client, account)
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


def test_deletion_of_a_child_cannot_be_undone_while_its_account_is_deleted(
    undo_client: UndoClient,
) -> None:
    account = undo_client.make(Account, None, **ACME)
    ada = undo_client.make(Contact, account, name="Ada")
    position = undo_client.delete(Contact, ada)
    account_deleted = undo_client.delete(Account, account)
    with pytest.raises(UndoConflict) as refused:
        undo_client.undo(position)
    assert [(each.field, each.position) for each in refused.value.conflicts] == [
        ("accountId", account_deleted)
    ]


def test_change_of_a_deleted_entity_cannot_be_undone(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    position = undo_client.set(Account, account, nextAction="Call")
    undo_client.delete(Account, account)
    found = conflicts(lambda: undo_client.undo(position, force=("exists", "nextAction")))
    assert found == [("account", "exists", False)]


def test_undo_with_an_invalid_result_is_refused(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME, dealValue="5.00")
    position = undo_client.set(Account, account, dealValue=None)
    undo_client.set(Account, account, type="investor")
    with pytest.raises(InvalidFields):
        undo_client.undo(position)
    plan = undo_client.undoing.preview(undo_client.scope, UndoTarget((position,)))
    assert [type(each) for each in plan.refusals] == [InvalidFields]


def test_partly_undone_command_is_undone_for_the_rest(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    scope = undo_client.new_scope()
    undo_client.set(Account, account, scope, nextAction="Call", status="active")
    updated, moved = undo_client.positions(scope.command_id)
    undo_client.undo(moved)
    undo_client.undo_command(scope.command_id)
    assert "nextAction" not in undo_client.load(Account, account).values
    with pytest.raises(AlreadyUndone):
        undo_client.undo(updated)


def test_undo_is_planned_again_after_a_concurrent_write(
    undo_client: UndoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = undo_client.make(Account, None, **ACME)
    position = undo_client.set(Account, account, nextAction="Call")
    record, times = UndoCommands._record, []

    def write_concurrently(self: UndoCommands, loaded: Any, plan: Any) -> int:
        times.append(1)
        if len(times) == 1:
            with open_other_thread() as pool:
                pool.submit(undo_client.set, Account, account, nextAction="Write").result()
        return record(self, loaded, plan)

    monkeypatch.setattr(UndoCommands, "_record", write_concurrently)
    assert conflicts(lambda: undo_client.undo(position)) == [("account", "nextAction", True)]
    assert times == [1]


def open_other_thread() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1)


def test_unknown_events_and_too_many_events_are_refused(
    undo_client: UndoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NothingToUndo):
        undo_client.undo(2**40)
    account = undo_client.make(Account, None, **ACME)
    with pytest.raises(NothingToUndo):
        undo_client.undoing.undo(
            undo_client.scope,
            UndoTarget(
                undo_client.positions(load_creating_command(undo_client, account)), "another"
            ),
        )
    undo_client.make(Contact, account, name="Ada")
    monkeypatch.setattr(undo_module, "UNDO_EVENTS_MAX", 1)
    with pytest.raises(TooMuchToUndo):
        undo_client.undo(undo_client.delete(Account, account))


def test_event_of_another_workspace_cannot_be_undone(undo_client: UndoClient) -> None:
    account = undo_client.make(Account, None, **ACME)
    positions = undo_client.positions(load_creating_command(undo_client, account))
    with pytest.raises(NothingToUndo):
        undo_client.undoing.undo(Scope(uuid4()), UndoTarget(positions))


def test_conflicts_are_listed_in_the_api_error() -> None:
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


def undo(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/api/undo", json=body)


def preview(client: httpx.Client, **query: Any) -> dict[str, Any]:
    response = client.get("/api/undo/preview", params=query)
    assert response.status_code == 200, response.text
    shown: dict[str, Any] = response.json()
    return shown


def test_command_named_by_a_write_is_undone(api_workspace: ApiWorkspace) -> None:
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


def test_audit_trail_and_history_show_the_undo(api_workspace: ApiWorkspace) -> None:
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


def test_deletion_over_http_is_undone_with_its_children(api_workspace: ApiWorkspace) -> None:
    client, account = api_workspace.client(), api_workspace.account()
    contact = api_workspace.make("contacts", name="Ada", accountId=account).headers["Location"]
    deleted = client.delete(f"/api/accounts/{account}")
    undone = undo(client, eventPosition=int(deleted.headers["Annals-Position"]))
    assert [each["action"] for each in undone.json()["changes"]] == ["restore", "restore"]
    assert client.get(contact, headers=after(undone)).status_code == 200


def test_conflict_is_shown_in_the_preview_and_refused_as_409(api_workspace: ApiWorkspace) -> None:
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


def test_irreversible_command_cannot_be_undone(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    issued = created(client.post("/api/keys", json={"name": "x", "role": "member"}))
    refused = undo(client, commandId=issued.headers["Annals-Command"])
    assert (refused.status_code, refused.json()["code"]) == (409, "E5016")
    assert refused.json()["positions"] == [int(issued.headers["Annals-Position"])]
    shown = preview(client, eventPosition=int(issued.headers["Annals-Position"]))
    assert shown["obstacles"][0]["code"] == "E5016"


def test_undo_requires_the_permission_of_the_undone_command(api_workspace: ApiWorkspace) -> None:
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
def test_invalid_undo_request_is_422(
    api_workspace: ApiWorkspace, body: dict[str, Any], code: str
) -> None:
    refused = undo(api_workspace.client(), **body)
    assert (refused.status_code, refused.json()["code"]) == (422, code), refused.text


@pytest.mark.parametrize(
    "query", ["", "eventPosition=1&commandId=c", "eventPosition=0", "commandId=", "x=1"]
)
def test_invalid_preview_query_is_400(api_workspace: ApiWorkspace, query: str) -> None:
    refused = api_workspace.client().get(f"/api/undo/preview?{query}")
    assert refused.status_code == 400


def test_unknown_event_or_command_is_404(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    for query in ({"eventPosition": 2**60}, {"commandId": str(uuid4())}):
        missing = undo(client, **query)
        assert (missing.status_code, missing.json()["code"]) == (404, "E5017")
        assert client.get("/api/undo/preview", params=query).status_code == 404
