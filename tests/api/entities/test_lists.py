"""Lists over HTTP: filters, search, order, pages, included data, and as-of reading."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from tests.support.api_server import Api, ApiWorkspace, after

COMPANIES = (
    ("Acme", "customer", "active", "high"),
    ("Bolt", "customer", "prospect", "low"),
    ("Cobalt", "investor", "active", "low"),
    ("Delta", "partner", "churned", "medium"),
)


@pytest.fixture(scope="module")
def filled(api: Api) -> ApiWorkspace:
    """A workspace with four accounts: Delta has a contact, Bolt an assignee."""
    api_workspace = api.new_workspace()
    member = api_workspace.make("members", name="Grace Hopper").json()["id"]
    for company, type_, status, priority in COMPANIES:
        assignee = {"assignedTo": member} if company == "Bolt" else {}
        account = api_workspace.account(
            company=company, type=type_, status=status, priority=priority, **assignee
        )
        if company == "Delta":
            last = api_workspace.make(
                "contacts", accountId=account, name="Zelda Fitz", email="z@x.org"
            )
    api.wait_until_projected(int(last.headers["Annals-Position"]))
    return api_workspace


def companies(api_workspace: ApiWorkspace, **parameters: Any) -> list[str]:
    response = api_workspace.client().get("/api/accounts", params=parameters)
    assert response.status_code == 200, response.text
    return [item["company"] for item in response.json()["items"]]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["Delta", "Cobalt", "Bolt", "Acme"]),
        ({"sortOrder": "asc"}, ["Acme", "Bolt", "Cobalt", "Delta"]),
        ({"sortBy": "company", "sortOrder": "desc"}, ["Delta", "Cobalt", "Bolt", "Acme"]),
        ({"sortBy": "status", "sortOrder": "asc"}, ["Acme", "Cobalt", "Delta", "Bolt"]),
        ({"sortBy": "updated_at", "sortOrder": "asc"}, ["Acme", "Bolt", "Cobalt", "Delta"]),
        ({"type": "customer"}, ["Bolt", "Acme"]),
        ({"type": "all", "status": "active"}, ["Cobalt", "Acme"]),
        ({"priority": "low", "status": "prospect"}, ["Bolt"]),
        ({"search": "OL"}, ["Bolt"]),
        ({"search": "bal"}, ["Cobalt"]),
        ({"search": "fitz"}, ["Delta"]),
        ({"search": " "}, ["Delta", "Cobalt", "Bolt", "Acme"]),
        ({"search": "%"}, []),
        ({"pageSize": "2", "page": "2"}, ["Bolt", "Acme"]),
    ],
)
def test_accounts_are_filtered_and_sorted(
    filled: ApiWorkspace, parameters: dict[str, str], expected: list[str]
) -> None:
    assert companies(filled, **parameters) == expected
    assert companies(filled, asOf="2199-01-01", **parameters) == expected


def test_accounts_are_filtered_by_assignee(filled: ApiWorkspace) -> None:
    (member,) = filled.client().get("/api/members").json()["items"]
    assert companies(filled, assignedTo=member["id"]) == ["Bolt"]


def test_contacts_are_filtered_by_account(filled: ApiWorkspace) -> None:
    (account,) = filled.client().get("/api/accounts", params={"search": "Delta"}).json()["items"]
    assert account["contactCount"] == 1
    page = filled.client().get("/api/contacts", params={"accountId": account["id"]}).json()
    assert [item["name"] for item in page["items"]] == ["Zelda Fitz"]
    assert page["items"][0]["accountName"] == "Delta"


def test_cursor_walks_the_whole_list(filled: ApiWorkspace) -> None:
    found, cursor = [], None
    while True:
        given = {"pageSize": 3, **({"cursor": cursor} if cursor else {})}
        page = filled.client().get("/api/accounts", params=given).json()
        found += [item["company"] for item in page["items"]]
        cursor = page["pagination"]["nextCursor"]
        if cursor is None:
            break
    assert found == ["Delta", "Cobalt", "Bolt", "Acme"]


def test_accounts_include_contacts_by_default(filled: ApiWorkspace) -> None:
    client = filled.client()
    (item,) = client.get("/api/accounts", params={"type": "partner"}).json()["items"]
    assert [each["name"] for each in item["contacts"]] == ["Zelda Fitz"]
    given = {"type": "partner", "includeContacts": "false"}
    (item,) = client.get("/api/accounts", params=given).json()["items"]
    assert "contacts" not in item


def test_aggregations_apply_the_type_filter_only(filled: ApiWorkspace) -> None:
    given = {"includeStats": "true", "type": "customer", "status": "active", "pageSize": "1"}
    page = filled.client().get("/api/accounts", params=given).json()
    expected = {
        "byStatus": {"active": 1, "prospect": 1},
        "byPriority": {"high": 1, "low": 1},
        "byType": {"customer": 2, "investor": 1, "partner": 1},
    }
    assert page["aggregations"] == expected
    assert page["pagination"]["totalItems"] == 1
    then = filled.client().get("/api/accounts", params={**given, "asOf": "2199-01-01"}).json()
    assert then["aggregations"] == expected
    assert "aggregations" not in filled.client().get("/api/accounts").json()


def test_list_is_shown_as_of_a_past_time(api_workspace: ApiWorkspace) -> None:
    url = f"/api/accounts/{api_workspace.account()}"
    client = api_workspace.client()
    changed = client.patch(url, json={"company": "Renamed"})
    between = datetime.fromisoformat(changed.json()["createdAt"]).isoformat()
    then = client.get("/api/accounts", params={"asOf": between}, headers=after(changed)).json()
    assert [item["company"] for item in then["items"]] == ["Acme"]
    page = client.get("/api/accounts", headers=after(changed)).json()
    assert [item["company"] for item in page["items"]] == ["Renamed"]
    # An unescaped plus sign arrives as a space.
    raw = client.get(f"/api/accounts?asOf={between}")
    assert raw.json()["items"][0]["company"] == "Acme"


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("colour=red", "E2030", None),
        ("Type=customer", "E2030", None),
        ("status=active&status=churned", "E2031", "status"),
        ("status=sleeping", "E2031", "status"),
        ("type=everything", "E2031", "type"),
        ("assignedTo=me", "E2031", "assignedTo"),
        ("sortBy=colour", "E2031", "sortBy"),
        ("sortOrder=up", "E2031", "sortOrder"),
        ("page=0", "E2031", "page"),
        ("page=20001", "E2031", "page"),
        ("pageSize=0", "E2031", "pageSize"),
        ("pageSize=501", "E2031", "pageSize"),
        ("pageSize=ten", "E2031", "pageSize"),
        ("includeStats=perhaps", "E2031", "includeStats"),
        ("search=a%00b", "E2031", "search"),
        (f"search={'a' * 201}", "E2031", "search"),
        ("cursor=abc", "E2032", None),
        ("cursor=WyJjcmVhdGVkX2F0OmRlc2MiLCJub3doZXJlIiwibm9uZSJd", "E2032", None),
        ("cursor=%22", "E2031", "cursor"),
        ("asOf=yesterday", "E2031", "asOf"),
        ("asOf=2026-01-31T12:00:00", "E2031", "asOf"),
        ("asOf=2026-01-31&cursor=abc", "E2031", "cursor"),
    ],
)
def test_invalid_parameter_is_400(
    filled: ApiWorkspace, query: str, code: str, field: str | None
) -> None:
    refused = filled.client().get(f"/api/accounts?{query}")
    assert refused.status_code == 400, refused.text
    assert refused.json()["code"] == code
    if field:
        assert refused.json()["errors"][0]["field"].split(".")[0] == field


def test_cursor_of_another_order_is_refused(filled: ApiWorkspace) -> None:
    page = filled.client().get("/api/accounts", params={"pageSize": 1}).json()
    given = {"cursor": page["pagination"]["nextCursor"], "sortBy": "company"}
    assert filled.client().get("/api/accounts", params=given).json()["code"] == "E2032"


def test_routes_without_parameters_refuse_them(filled: ApiWorkspace) -> None:
    client = filled.client()
    for method, path in (
        ("GET", "/healthz"),
        ("GET", "/api/keys"),
        ("POST", "/api/accounts"),
        ("DELETE", "/api/accounts/00000000-0000-0000-0000-000000000000"),
    ):
        refused = client.request(method, path, params={"force": "true"})
        assert (refused.status_code, refused.json()["code"]) == (400, "E2030"), path


@pytest.fixture(scope="module")
def accented(api: Api) -> ApiWorkspace:
    """A workspace whose names have accents."""
    api_workspace = api.new_workspace()
    for company in ("Café Müller", "STRASSENBAU", "Łódź Ærø", "Istanbul", "Cafeteria"):
        account = api_workspace.account(company=company)
    api_workspace.make("contacts", accountId=account, name="Zoë Ångström")
    lead = {"name": "Renée", "company": "Groß", "email": "rené@example.com", "source": "Bücher"}
    last = api_workspace.make("leads", **lead)
    api.wait_until_projected(int(last.headers["Annals-Position"]))
    return api_workspace


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("cafe", {"Café Müller", "Cafeteria"}),
        ("CAFÉ", {"Café Müller", "Cafeteria"}),
        ("cafe\u0301 mu\u0308ller", {"Café Müller"}),
        ("fé", {"Café Müller", "Cafeteria"}),
        ("é", {"Café Müller", "STRASSENBAU", "Łódź Ærø", "Cafeteria"}),
        ("straße", {"STRASSENBAU"}),
        ("ß", {"STRASSENBAU"}),
        ("lodz aero", {"Łódź Ærø"}),
        ("ÆRØ", {"Łódź Ærø"}),
        ("İSTANBUL", {"Istanbul"}),
        ("ıst", {"Istanbul"}),
        ("zoe angstrom", {"Cafeteria"}),
        ("ZO", {"Cafeteria"}),
        ("caf_", set()),
        ("kafe", set()),
    ],
)
def test_search_ignores_case_accents_and_form(
    accented: ApiWorkspace, search: str, expected: set[str]
) -> None:
    assert set(companies(accented, search=search)) == expected
    assert set(companies(accented, search=search, asOf="2200-01-01")) == expected
    export = accented.client().get(
        "/api/accounts/export", params={"format": "ndjson", "search": search}
    )
    assert {json.loads(line)["company"] for line in export.text.splitlines()} == expected


@pytest.mark.parametrize("search", ["renee", "GROSS", "rene\u0301@", "re"])
def test_every_searched_field_of_a_lead_is_compared_alike(
    accented: ApiWorkspace, search: str
) -> None:
    page = accented.client().get("/api/leads", params={"search": search}).json()
    assert [each["name"] for each in page["items"]] == ["Renée"]
    assert page["pagination"]["totalItems"] == 1


def test_filters_accept_text_in_any_form(accented: ApiWorkspace) -> None:
    page = accented.client().get("/api/leads", params={"source": "Bu\u0308cher"}).json()
    assert [each["name"] for each in page["items"]] == ["Renée"]


def test_items_and_exports_do_not_show_the_folded_text(accented: ApiWorkspace) -> None:
    client = accented.client()
    for parameters in ({}, {"asOf": "2200-01-01"}):
        listed = client.get("/api/leads", params=parameters)
        assert "olded" not in listed.text
    assert "olded" not in client.get("/api/leads/export", params={"format": "csv"}).text
