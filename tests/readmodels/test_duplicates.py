"""Duplicates: values that differ only in spelling are found while entities change."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
import pytest

from commands.entities import EntityCommands
from domain.account import Account
from domain.contact import Contact
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.duplicates import PHONE_DIGITS_MIN, company_key, email_key, phone_key
from projections.engine.live.runner import ProjectionEngine
from readmodels.duplicates import MEMBERS_SHOWN_MAX
from tests.support.api_server import ApiWorkspace, after
from tests.support.databases import Urls
from tests.support.duplicate_keys import KEYS, assert_keys_match_lists
from tests.support.undo_client import UndoClient


@pytest.fixture
def undo_client(log: EventLog, commands: EntityCommands, scope: Scope) -> UndoClient:
    return UndoClient(log, commands, scope)


# The rules


def test_email_key_ignores_only_case_and_outer_blanks() -> None:
    assert email_key("  Ada@Example.COM ") == email_key("ada@example.com")
    assert email_key("a.da@example.com") != email_key("ada@example.com")
    assert email_key("ada+crm@example.com") != email_key("ada@example.com")


@pytest.mark.parametrize(
    ("phone", "key"),
    [
        ("+44 20 7946 0000", "+442079460000"),
        ("+44 (0)20 7946-0000", "+442079460000"),
        ("0044 20 7946 0000", "+442079460000"),
        ("(+44) 20 7946.0000 x12", "+442079460000"),
        ("+44/20/79460000 #3", "+442079460000"),
        ("020 7946 0000", "02079460000"),
        ("(020) 7946 0000 X 4", "02079460000"),
        ("112", None),
        ("1" * PHONE_DIGITS_MIN, "1" * PHONE_DIGITS_MIN),
    ],
)
def test_phone_key_is_plus_and_digits_without_extension(phone: str, key: str | None) -> None:
    assert phone_key(phone) == key


@pytest.mark.parametrize(
    ("company", "same"),
    [
        ("Acme Inc.", "ACME"),
        ("Acme, Inc", "acme corporation"),
        ("Société Générale S.A.", "SOCIETE GENERALE"),
        ("Müller GmbH & Co. KG", "muller"),
        ("Straße AG", "STRASSE ag"),
        ("Data-Works Ltd", "DataWorks Limited"),
        ("東京電力", "東京電力"),
        ("Sport e.V.", "Sport"),
        ("The Co", "THE"),
    ],
)
def test_company_key_ignores_legal_form_case_and_accents(company: str, same: str) -> None:
    assert company_key(company) == company_key(same)


def test_company_key_keeps_legal_forms_that_are_the_name() -> None:
    assert company_key("AG") == "ag"
    assert company_key("Co. Ltd.") == "coltd"
    assert company_key("!!!") == "!!!"
    assert company_key("Inc. Magazine") == "incmagazine"
    assert company_key("Acme Holding") != company_key("Acme")


# The rows


def test_keys_follow_changes_deletions_merges_and_undo(
    undo_client: UndoClient, engine: ProjectionEngine, database: Connection
) -> None:
    accounts = [
        undo_client.make(Account, company=name, type="customer")
        for name in ("Acme", "ACME Inc.", "Bluth", "bluth LLC")
    ]
    contacts = [
        undo_client.make(Contact, accounts[n % 4], name="Ada", email=email, phone=phone)
        for n, (email, phone) in enumerate(
            [
                ("ada@example.com", "+44 20 7946 0000"),
                ("Ada@Example.com", "0044 2079460000"),
                ("ada@example.com", None),
                (None, "112"),
                ("grace@example.com", "+44 20 7946 0000"),
            ]
        )
    ]
    undo_client.set(Contact, contacts[3], email="grace@example.com", phone="020 7946 0000")
    undo_client.set(Contact, contacts[4], phone=None)
    undo_client.set(Account, accounts[2], company="Cyberdyne")
    undo_client.delete(Contact, contacts[2])
    deleted = undo_client.delete(Account, accounts[3])
    engine.catch_up()
    assert_keys_match_lists(database)
    undo_client.undo(deleted)
    _, command = undo_client.merge(Account, accounts[0], accounts[1])
    engine.catch_up()
    assert_keys_match_lists(database)
    undo_client.undo_command(command)
    undo_client.merge(Contact, contacts[0], contacts[1], {"phone": {"value": "+1 555 0100 200"}})
    engine.catch_up()
    assert_keys_match_lists(database)


def test_page_is_read_by_index(
    undo_client: UndoClient, engine: ProjectionEngine, database: Connection, urls: Urls
) -> None:
    workspace = undo_client.scope.workspace_id
    for reason in KEYS:
        database.execute(
            f"INSERT INTO read.{reason}_counts SELECT %s, 'k' || i, 1 + (i %% 1000 = 0)::int"
            " FROM generate_series(1, 20000) AS i".encode(),
            (workspace,),
        )
        database.execute(f"ANALYZE read.{reason}_counts".encode())
    with psycopg.connect(urls.app) as connection:
        connection.execute("SELECT set_config('annals.workspace_id', %s, true)", [str(workspace)])
        for reason in KEYS:
            plan = connection.execute(
                f"EXPLAIN SELECT key, n FROM read.{reason}_counts WHERE workspace_id = %s"
                " AND n > 1 AND key > 'k5' ORDER BY key LIMIT 21".encode(),
                (workspace,),
            ).fetchall()
            assert any("Index" in line for (line,) in plan), plan
            assert not any("Seq Scan" in line or "Sort" in line for (line,) in plan), plan


# Over HTTP


def duplicates(client: httpx.Client, kind: str, **query: Any) -> dict[str, Any]:
    headers = query.pop("headers", {})
    answer = client.get("/api/duplicates", params={"kind": kind, **query}, headers=headers)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def test_groups_are_listed_with_reason_key_and_members(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    this, other = api_workspace.account(company="Acme"), api_workspace.account(company="ACME, Inc.")
    last = api_workspace.account(company="Bluth")
    made = [
        api_workspace.make(
            "contacts", name=name, accountId=this, email=email, phone="+44 20 7946 0000"
        )
        for name, email in (("Ada", "ada@example.com"), ("A. L.", "ADA@example.com"))
    ]
    page = duplicates(client, "contacts", headers=after(made[-1]))
    assert [(each["reason"], each["key"], each["count"]) for each in page["items"]] == [
        ("email", "ada@example.com", 2),
        ("phone", "+442079460000", 2),
    ]
    members = page["items"][0]["members"]
    assert [each["id"] for each in members] == [each.json()["id"] for each in made]
    assert members[0]["accountName"] == "Acme"
    (group,) = duplicates(client, "accounts", headers=after(made[-1]))["items"]
    assert (group["reason"], group["key"], group["count"]) == ("company", "acme", 2)
    assert {each["id"]: each["contactCount"] for each in group["members"]} == {this: 2, other: 0}
    assert last not in {each["id"] for each in group["members"]}
    merged = client.post(f"/api/accounts/{this}/merge", json={"with": other})
    assert duplicates(client, "accounts", headers=after(merged))["items"] == []


def test_groups_are_paged_by_cursor(api_workspace: ApiWorkspace) -> None:
    client, account = api_workspace.client(), api_workspace.account()
    for number in range(10):
        contact = api_workspace.make(
            "contacts",
            name="Ada",
            accountId=account,
            email=f"ada{number % 3}@example.com",
            phone=f"+44 20 7946 000{number % 4}",
        )
    whole = duplicates(client, "contacts", headers=after(contact))["items"]
    assert [each["reason"] for each in whole] == ["email"] * 3 + ["phone"] * 4
    walked: list[Any] = []
    cursor = None
    while cursor is not None or not walked:
        query: dict[str, Any] = {"cursor": cursor} if cursor else {}
        page = duplicates(client, "contacts", pageSize=2, **query)
        walked += page["items"]
        cursor = page["nextCursor"]
    assert walked == whole
    assert duplicates(client, "contacts", reason="phone")["items"] == whole[3:]


def test_members_shown_of_large_group_are_limited(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    for _ in range(MEMBERS_SHOWN_MAX + 2):
        account = api_workspace.make("accounts", company="Acme", type="customer")
    (group,) = duplicates(client, "accounts", headers=after(account))["items"]
    assert (group["count"], len(group["members"])) == (MEMBERS_SHOWN_MAX + 2, MEMBERS_SHOWN_MAX)


@pytest.mark.parametrize(
    "query",
    ["", "kind=notes", "kind=accounts&reason=email", "kind=contacts&cursor=x", "kind=contacts&x=1"],
)
def test_invalid_query_is_400(api_workspace: ApiWorkspace, query: str) -> None:
    assert api_workspace.client().get(f"/api/duplicates?{query}").status_code == 400


def test_another_workspace_sees_no_duplicates(api_workspace: ApiWorkspace) -> None:
    api_workspace.account()
    account = api_workspace.make("accounts", company="ACME", type="customer")
    api_workspace.api.wait_until_projected(int(account.headers["Annals-Position"]))
    stranger = api_workspace.api.new_workspace().client("read-only")
    assert duplicates(stranger, "accounts")["items"] == []
