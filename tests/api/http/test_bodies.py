"""Invalid request bodies are refused with their error codes before any command runs."""

from __future__ import annotations

import socket

import pytest

from api.http.bodies import parse_json
from runtime.errors import ApiError
from tests.support.api_server import BODY_MAX_BYTES, ApiWorkspace

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "E2020"),
        (b"{", "E2020"),
        (b'{"company": "x",}', "E2020"),
        (b'{"company": NaN}', "E2020"),
        (b'{"company": -Infinity}', "E2020"),
        (b'{"company": "\\ud800"}', "E2020"),
        (b'{"company": "a\nb"}', "E2020"),
        (b'\xef\xbb\xbf{"company": "x"}', "E2020"),
        (b'{"company": "\xff"}', "E2021"),
        (b'{"company": "x", "company": "y"}', "E2022"),
        (b'{"customFields": {"a": 1, "\\u0061": 2}}', "E2022"),
        (b"[" * 17 + b"]" * 17, "E2023"),
        (b"[" * 1_500 + b"]" * 1_500, "E2023"),
        (b"[]", "E2026"),
        (b'"text"', "E2026"),
        (b"null", "E2026"),
        (b'{"dealValue": 12345678901234567.89}', "E2028"),
        (b'{"dealValue": 1e400}', "E2028"),
        (b'{"dealValue": ' + b"1" * 50 + b"}", "E2028"),
    ],
)
def test_invalid_or_ambiguous_json_is_400(
    api_workspace: ApiWorkspace, content: bytes, code: str
) -> None:
    response = api_workspace.client().post("/api/accounts", content=content, headers=JSON)
    assert (response.status_code, response.json()["code"]) == (400, code), response.text


def test_valid_json_is_parsed() -> None:
    assert parse_json(b' {"a": [1, 0.1, 1e2, true, null, "\\ud83d\\ude00"]} ') == {
        "a": [1, 0.1, 100.0, True, None, "😀"]
    }


def test_too_deep_json_is_refused_before_the_parser_fails() -> None:
    with pytest.raises(ApiError) as refused:
        parse_json(b'{"a":' * 100_000)
    assert refused.value.code.code == "E2023"


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({}, "E2003", None),
        ({"company": "", "type": "customer"}, "E2001", "company"),
        ({"company": "x"}, "E2004", "type"),
        ({"company": "x", "type": "customer", "colour": "red"}, "E2005", "colour"),
        ({"company": "x", "type": "friend"}, "E2006", "type"),
        ({"company": "x" * 201, "type": "customer"}, "E2007", "company"),
        ({"company": "x", "type": "customer", "dealValue": "-1"}, "E2008", "dealValue"),
        ({"company": "x", "type": "customer", "dealValue": "1.234"}, "E2008", "dealValue"),
        ({"company": "x", "type": "customer", "dealValue": "lots"}, "E2008", "dealValue"),
        ({"company": "x", "type": "customer", "nextActionDate": "soon"}, "E2009", "nextActionDate"),
        ({"company": 7, "type": "customer"}, "E2010", "company"),
        ({"company": "a\u0000b", "type": "customer"}, "E2010", "company"),
        ({"company": "x", "type": "partner", "dealValue": "1"}, "E2010", "dealValue"),
        ({"company": "x", "type": "customer", "customFields": {"a": {}}}, "E2010", None),
        ({"company": "x", "type": "customer", "workspaceId": "x"}, "E2005", "workspaceId"),
        ({"company": "x", "type": "customer", "accountId": "x"}, "E2005", "accountId"),
    ],
)
def test_invalid_fields_are_named(
    api_workspace: ApiWorkspace, fields: dict[str, object], code: str, field: str | None
) -> None:
    response = api_workspace.client().post("/api/accounts", json=fields)
    assert (response.status_code, response.json()["code"]) == (422, code), response.text
    if field:
        assert [each["field"] for each in response.json()["errors"]] == [field]
        assert [each["code"] for each in response.json()["errors"]] == [code]


def test_invalid_email_is_422(api_workspace: ApiWorkspace) -> None:
    response = api_workspace.client().post("/api/members", json={"name": "Ada", "email": "ada"})
    assert (response.status_code, response.json()["code"]) == (422, "E2002")


def test_money_is_exact_as_text_and_as_number(api_workspace: ApiWorkspace) -> None:
    for given, shown in (("0.1", "0.10"), (0.1, "0.10"), (5, "5.00"), ("9" * 16, "9" * 16 + ".00")):
        account = api_workspace.make("accounts", company="x", type="customer", dealValue=given)
        assert account.json()["dealValue"] == shown


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"],
)
def test_other_media_type_is_415(api_workspace: ApiWorkspace, content_type: str) -> None:
    client = api_workspace.client()
    headers = {"Content-Type": content_type}
    posted = client.post("/api/accounts", content=b"{}", headers=headers)
    assert (posted.status_code, posted.json()["code"]) == (415, "E2025")
    assert posted.headers["Accept"] == "application/json"
    url = f"/api/accounts/{api_workspace.account()}"
    patched = client.patch(url, content=b"{}", headers=headers)
    assert patched.json()["code"] == "E2025"
    assert "application/json-patch+json" in patched.headers["Accept-Patch"]


def test_charset_utf_8_is_accepted(api_workspace: ApiWorkspace) -> None:
    headers = {"Content-Type": 'Application/JSON; charset="UTF-8"'}
    content = '{"company": "Ærø", "type": "customer"}'.encode()
    response = api_workspace.client().post("/api/accounts", content=content, headers=headers)
    assert response.json()["company"] == "Ærø"


def test_large_body_with_content_length_is_413(api_workspace: ApiWorkspace) -> None:
    content = b" " * (BODY_MAX_BYTES + 1)
    response = api_workspace.client().post("/api/accounts", content=content, headers=JSON)
    assert (response.status_code, response.json()["code"]) == (413, "E2024")
    assert response.json()["maxBytes"] == BODY_MAX_BYTES


def test_large_body_without_content_length_is_413(api_workspace: ApiWorkspace) -> None:
    chunks = (b" " * 1_000 for _ in range(10))
    response = api_workspace.client().post("/api/accounts", content=chunks, headers=JSON)
    assert (response.status_code, response.json()["code"]) == (413, "E2024")


def test_incomplete_body_is_408(api_workspace: ApiWorkspace) -> None:
    token = api_workspace.client().headers["Authorization"]
    head = (
        f"POST /api/accounts HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    port = api_workspace.api.settings.port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65_536).decode()
        while chunk := connection.recv(65_536):
            answer += chunk.decode()
    assert answer.startswith("HTTP/1.1 408")
    assert '"code":"E4002"' in answer
