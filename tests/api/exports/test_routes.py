"""Exports: content, formats, permissions, and importing them again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.exports.formats import preferred_format
from domain.shared.kinds import BY_PLURAL
from domain.shared.text import FORMULA_STARTS, neutralised
from readmodels.exports import AUDIT_CELLS, CUSTOM_COLUMNS_MAX, NEUTRALISED
from readmodels.lists import LISTS
from tests.support.api_server import Api, ApiWorkspace, after
from tests.support.databases import Urls
from tests.support.export_files import as_rows, cell, objects, rows
from tests.support.imports import Importer, settings_for
from tests.support.kinds import DESCRIBED_KINDS

LONG = "+" + "x" * 300
CUSTOM: dict[str, Any] = {
    "=cmd": "=1+1",
    "text": 'a,b\n"c" \'d',
    "negative": -5,
    "looks negative": "-5",
    "flag": True,
    "a.b": "''=3",
    "k" * 100: "a long key",
}
NDJSON = "application/x-ndjson"


@pytest.fixture(scope="module")
def filled(api: Api) -> ApiWorkspace:
    """A workspace with records of every kind, some with names that look like formulas."""
    api_workspace = api.new_workspace()
    ada = api_workspace.make("members", name="Ada Lovelace", email="ada@example.com").json()["id"]
    api_workspace.make("members", name="=Grace", title="@work")
    acme = api_workspace.account(
        company="+Acme, Inc.", dealValue="1200.50", nextAction=LONG, customFields=CUSTOM
    )
    beta = api_workspace.account(
        company="'Beta'", type="investor", checkSize="0", assignedTo=ada, status="active"
    )
    api_workspace.account(company="'=Gamma", type="partner", opportunity='say "hello"\n=twice')
    on = {"accountId": acme, "assignedTo": ada}
    api_workspace.make("contacts", name="-Zoe", phone="+44 20 7946", email="zoe@example.com", **on)
    api_workspace.make("contacts", name="Yan", accountId=beta, customFields={"vip": "yes"})
    api_workspace.make("tasks", title="@home", status="todo", dueDate="2026-02-01", **on)
    api_workspace.make("tasks", title="Done", status="done", accountId=beta)
    times = {"startsAt": "2026-01-05T09:00:00.5Z", "endsAt": "2026-01-05T12:00:00+01:00"}
    api_workspace.make("meetings", title="Kick-off", agenda="- one\n- two", **times, **on)
    api_workspace.make("notes", title="=A1", body='\u2028\\ \\. "quoted"', **on)
    won = {"stage": "won", "engagedOn": "2026-01-01", "closedOn": "2026-02-01"}
    api_workspace.make("opportunities", name="Deal", value="99.90", **won, **on)
    given: dict[str, Any] = {"source": "fair", "value": "10", "smsOptOut": True}
    api_workspace.make("leads", name="=Ada", company="Engines, Inc.", assignedTo=ada, **given)
    booked: dict[str, Any] = {"startsAt": "2026-01-05T09:00:00Z", "durationMinutes": 30}
    api_workspace.make("appointments", title="+Call", memberId=ada, notes="a\nb", **booked, **on)
    for each in DESCRIBED_KINDS:
        plain = {k: v for k, v in each.full.items() if k not in each.kind.REFERENCES}
        api_workspace.make(each.kind.PLURAL, **plain, **on)
    last = api_workspace.make("opportunities", name="Other deal", stage="engaging", accountId=beta)
    api.wait_until_projected(int(last.headers["Annals-Position"]))
    return api_workspace


def export(
    api_workspace: ApiWorkspace, plural: str, form: str, **parameters: Any
) -> httpx.Response:
    given = {"format": form, **parameters}
    response = api_workspace.client().get(f"/api/{plural}/export", params=given)
    assert response.status_code == 200, response.text
    return response


def list_all(api_workspace: ApiWorkspace, plural: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return all items of the list, read page by page."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        given = {"pageSize": 2, **parameters, **({"cursor": cursor} if cursor else {})}
        page = api_workspace.client().get(f"/api/{plural}", params=given).json()
        found += page["items"]
        cursor = page.get("nextCursor") or page.get("pagination", {}).get("nextCursor")
        if cursor is None:
            return found


every_list = pytest.mark.parametrize("plural", sorted(LISTS))
SELECTIONS: list[tuple[str, dict[str, Any]]] = [
    ("accounts", {"type": "customer"}),
    ("accounts", {"sortBy": "company", "sortOrder": "asc"}),
    ("accounts", {"status": "active", "type": "all"}),
    ("accounts", {"search": "zoe"}),
    ("accounts", {"search": "a"}),
    ("accounts", {"includeContacts": "false"}),
    ("contacts", {"search": "yan", "sortBy": "name"}),
    ("tasks", {"status": "todo"}),
    ("meetings", {"sortBy": "starts_at"}),
    ("opportunities", {"stage": "won"}),
    ("opportunities", {"sortBy": "stage", "sortOrder": "asc"}),
]


@every_list
def test_export_equals_the_list(filled: ApiWorkspace, plural: str) -> None:
    items = list_all(filled, plural)
    assert items
    response = export(filled, plural, "ndjson")
    assert objects(response.text) == items
    table = export(filled, plural, "csv")
    assert rows(table.text) == as_rows(items)
    assert table.headers["Annals-Position"] == response.headers["Annals-Position"]


@pytest.mark.parametrize(("plural", "selection"), SELECTIONS)
def test_export_has_the_filters_and_order_of_the_list(
    filled: ApiWorkspace, plural: str, selection: dict[str, Any]
) -> None:
    items = list_all(filled, plural, **selection)
    assert objects(export(filled, plural, "ndjson", **selection).text) == items
    # A CSV table never includes contacts.
    ids = [row["id"] for row in rows(export(filled, plural, "csv", **selection).text)]
    assert ids == [item["id"] for item in items]


def test_export_of_the_contacts_of_one_account(filled: ApiWorkspace) -> None:
    (account,) = filled.client().get("/api/accounts", params={"search": "+Acme"}).json()["items"]
    found = objects(export(filled, "contacts", "ndjson", accountId=account["id"]).text)
    assert [each["name"] for each in found] == ["-Zoe"]


def test_no_text_cell_begins_like_a_formula(filled: ApiWorkspace) -> None:
    for plural in LISTS:
        for row in csv.reader(io.StringIO(export(filled, plural, "csv").text, newline="")):
            formulas = [each for each in row if each.startswith(FORMULA_STARTS)]
            assert formulas in ([], ["-5"]), "only a number may begin with a minus sign"


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_sql_neutralises_text_as_python_does(database_text: Any, text: str) -> None:
    assert database_text(text) == neutralised(text)


@given(st.text(alphabet="'=+-@\t\r\n ab"))
def test_sql_neutralises_formulas_as_python_does(database_text: Any, text: str) -> None:
    assert database_text(text) == neutralised(text)


@pytest.fixture(scope="module")
def database_text(api: Api) -> Iterator[Callable[[str], str]]:
    """A function that neutralises a cell in PostgreSQL."""
    query = "SELECT " + NEUTRALISED.format(cell="%(text)s::text")
    with psycopg.connect(str(api.settings.app_url), autocommit=True) as connection:

        def neutralise(text: str) -> str:
            row = connection.execute(query.encode(), {"text": text}).fetchone()
            assert row is not None
            return str(row[0])

        yield neutralise


def test_audit_export_equals_the_audit_list(filled: ApiWorkspace) -> None:
    items = list_all(filled, "audit")
    response = export(filled, "audit", "ndjson")
    assert objects(response.text) == items
    assert int(response.headers["Annals-Position"]) >= items[0]["position"]
    found = objects(export(filled, "audit", "ndjson", sortOrder="asc").text)
    assert found == items[::-1]
    table = rows(export(filled, "audit", "csv").text)
    assert list(table[0]) == list(AUDIT_CELLS)
    assert [int(row["position"]) for row in table] == [each["position"] for each in items]
    for row, item in zip(table, items, strict=True):
        assert json.loads(row["changes"]) == item["changes"]
        assert row["actorName"] == item["actor"]["name"]


@pytest.mark.parametrize(
    "selection",
    [
        {"entityType": "account", "action": "create"},
        {"since": "2199-01-01"},
        {"actorId": "unknown"},
        {"until": "2199-01-01", "entityType": "task"},
    ],
)
def test_audit_export_has_the_filters_of_the_audit_list(
    filled: ApiWorkspace, selection: dict[str, str]
) -> None:
    items = list_all(filled, "audit", **selection)
    assert objects(export(filled, "audit", "ndjson", **selection).text) == items
    assert len(rows(export(filled, "audit", "csv", **selection).text)) == len(items)


def test_audit_export_of_one_entity(filled: ApiWorkspace) -> None:
    (account,) = filled.client().get("/api/accounts", params={"search": "Beta"}).json()["items"]
    found = objects(export(filled, "audit", "ndjson", entityId=account["id"]).text)
    assert [each["topic"] for each in found] == ["account.created"]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "text/csv"),
        ("*/*", "text/csv"),
        ("text/csv", "text/csv"),
        (NDJSON, NDJSON),
        (f"text/csv;q=0.5, {NDJSON}", NDJSON),
        (f"{NDJSON};q=0.1, TEXT/CSV;header=present", "text/csv"),
        ("application/*, image/png", NDJSON),
    ],
)
def test_accept_header_chooses_the_format(
    filled: ApiWorkspace, accept: str | None, media_type: str
) -> None:
    headers = {} if accept is None else {"Accept": accept}
    response = filled.client().get("/api/tasks/export", headers=headers)
    assert response.headers["Content-Type"].partition(";")[0] == media_type
    position, form = response.headers["Annals-Position"], "csv" if "csv" in media_type else "ndjson"
    expected = f'attachment; filename="tasks-{position}.{form}"'
    assert response.headers["Content-Disposition"] == expected


@pytest.mark.parametrize(
    "accept", ["image/png", "text/csv;q=0", "text/csv;q=x", "application/json"]
)
def test_unsupported_format_is_406(filled: ApiWorkspace, accept: str) -> None:
    assert preferred_format(accept) is None
    for path in ("/api/tasks/export", "/api/audit/export"):
        refused = filled.client().get(path, headers={"Accept": accept})
        assert (refused.status_code, refused.json()["code"]) == (406, "E2082")
        assert refused.json()["supported"] == ["text/csv", NDJSON]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("format=xml", "E2031"),
        ("page=2", "E2030"),
        ("cursor=x", "E2030"),
        ("asOf=2026-01-01", "E2030"),
        ("sortBy=colour", "E2031"),
        ("status=sleeping", "E2031"),
    ],
)
def test_invalid_parameter_is_400(filled: ApiWorkspace, query: str, code: str) -> None:
    refused = filled.client().get(f"/api/accounts/export?{query}")
    assert (refused.status_code, refused.json()["code"]) == (400, code)


@pytest.mark.parametrize("plural", ["accounts", "audit"])
def test_head_has_the_headers_of_get(filled: ApiWorkspace, plural: str) -> None:
    head = filled.client().head(f"/api/{plural}/export")
    full = filled.client().get(f"/api/{plural}/export")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("Annals-Position", "Content-Type", "Content-Disposition"):
        assert head.headers[name] == full.headers[name]


def test_export_contains_the_writes_before_it(api_workspace: ApiWorkspace) -> None:
    for number in range(5):
        written = api_workspace.make("accounts", company=f"C{number}", type="partner")
        export = api_workspace.client().get("/api/accounts/export", headers=after(written))
        assert len(rows(export.text)) == number + 1
        assert int(export.headers["Annals-Position"]) >= int(written.headers["Annals-Position"])


@pytest.mark.parametrize("plural", ["accounts", "contacts", "audit"])
def test_export_has_no_rows_of_another_workspace(
    filled: ApiWorkspace, api: Api, plural: str
) -> None:
    other = api.new_workspace()
    account = other.account(company="Elsewhere")
    last = other.make("contacts", name="Somebody", accountId=account)
    api.wait_until_projected(int(last.headers["Annals-Position"]))
    for form in ("csv", "ndjson"):
        assert "Elsewhere" in export(other, plural, form).text
        assert "Elsewhere" not in export(filled, plural, form).text
        assert "Acme" not in export(other, plural, form).text


def test_audit_export_needs_the_permission_for_the_audit_trail(filled: ApiWorkspace) -> None:
    for role, status in (("auditor", 200), ("member", 403), ("analyst", 403)):
        assert filled.client(role).get("/api/audit/export").status_code == status
    assert filled.client("read-only").get("/api/accounts/export").status_code == 200
    assert filled.api.client().get("/api/accounts/export").status_code == 401


def test_table_with_too_many_columns_is_422(api_workspace: ApiWorkspace) -> None:
    half = CUSTOM_COLUMNS_MAX // 2 + 1
    for part in ("a", "b"):
        last = api_workspace.make(
            "accounts", company=part, type="partner",
            customFields={f"{part}{number}": "x" for number in range(half)},
        )  # fmt: skip
    refused = api_workspace.client().get("/api/accounts/export", headers=after(last))
    assert (refused.status_code, refused.json()["code"]) == (422, "E2085")
    assert refused.json()["limit"] == CUSTOM_COLUMNS_MAX
    # A narrower filter or the other format avoids the limit.
    assert len(rows(export(api_workspace, "accounts", "csv", search="a").text)) == 1
    assert len(objects(export(api_workspace, "accounts", "ndjson").text)) == 2


# Columns of an export that are no fields, and the fields that import them.
REFERENCES = {
    "accountName": "accountId",
    "assignedToName": "assignedTo",
    "memberName": "memberId",
}


def import_mapping(plural: str, header: list[str]) -> dict[str, str]:
    kind = BY_PLURAL[plural]
    fields = set(kind.FIELDS.wire_names()) - kind.FIELDS.read_only() - {"assignedTo", "memberId"}
    mapping = {name: name if name in fields or "customFields." in name else "" for name in header}
    return {**mapping, **{k: v for k, v in REFERENCES.items() if k in header}}


@pytest.fixture
def elsewhere(urls: Urls, workspace: UUID, tmp_path: Path) -> Importer:
    """An importer into an empty workspace of another database."""
    return Importer(settings_for(urls, tmp_path), workspace, tmp_path)


def test_imported_export_equals_the_original(filled: ApiWorkspace, elsewhere: Importer) -> None:
    in_order = ["members", "accounts", *sorted(set(LISTS) - {"members", "accounts"})]
    for plural in in_order:
        table = export(filled, plural, "csv", sortOrder="asc")
        header = next(csv.reader([table.text.partition("\n")[0]]))
        result = elsewhere.run(plural, table.text, mapping=import_mapping(plural, header))
        assert result.failed == 0, result.issues
        before = [
            _portable_values(plural, each) for each in list_all(filled, plural, sortOrder="asc")
        ]
        assert [_portable_values(plural, each) for each in elsewhere.items(plural)] == before


def _portable_values(plural: str, item: dict[str, Any]) -> dict[str, Any]:
    """Return the values that a table carries to another workspace: names, not ids; custom text."""
    names = [*BY_PLURAL[plural].FIELDS.wire_names(), "accountName", "assignedToName", "memberName"]
    shown = {name: item.get(name) for name in names if name not in {"assignedTo", "memberId"}}
    custom = {key: cell(value) for key, value in item["customFields"].items()}
    return {**shown, "customFields": custom}
