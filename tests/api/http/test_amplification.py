"""No response grows with what it refuses, and no text that cannot be stored is a server's fault."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from runtime.errors import ERRORS_SHOWN_MAX
from tests.support.api_server import ApiWorkspace

RESPONSE_MAX_BYTES = 100_000
JSON = {"Content-Type": "application/json"}
NUL = "a\0b"


def send(
    api_workspace: ApiWorkspace, method: str, path: str, body: Any, **headers: str
) -> httpx.Response:
    return api_workspace.client().request(
        method, path, content=orjson.dumps(body), headers={**JSON, **headers}
    )


def test_errors_of_many_bad_ids_are_counted_and_cut(api_workspace: ApiWorkspace) -> None:
    ids = [f"{number:040}" for number in range(100_000)]
    body = {"kind": "account", "ids": ids, "change": {"set": {"priority": "high"}}}
    refused = send(api_workspace, "POST", "/api/bulk", body)
    assert refused.status_code == 422, refused.text[:500]
    assert refused.json()["errorsTotal"] == len(ids)
    assert len(refused.json()["errors"]) == ERRORS_SHOWN_MAX
    assert len(refused.content) < RESPONSE_MAX_BYTES


def test_number_of_ids_is_limited_before_any_is_validated(api_workspace: ApiWorkspace) -> None:
    body = {"kind": "account", "ids": [1] * 1_000_000, "change": {"set": {"priority": "high"}}}
    refused = send(api_workspace, "POST", "/api/bulk", body)
    assert (refused.status_code, refused.json()["code"]) == (422, "E2050")
    assert (refused.json()["found"], len(refused.content) < 1_000) == (1_000_000, True)


def test_errors_of_many_unknown_fields_are_counted_and_cut(api_workspace: ApiWorkspace) -> None:
    many = {f"f{number}": 1 for number in range(20_000)}
    fields = {f"f{number}": 1 for number in range(350)}  # within this API's limit of a body
    account = api_workspace.account()
    change = {"kind": "account", "ids": [account], "change": {"set": many}}
    for method, path, body in (
        ("POST", "/api/accounts", fields),
        ("PATCH", f"/api/accounts/{account}", fields),
        ("PATCH", f"/api/accounts/{account}", dict.fromkeys(fields)),
        ("POST", "/api/bulk", change),
    ):
        refused = send(api_workspace, method, path, body)
        assert refused.status_code == 422, (path, refused.text[:500])
        assert len(refused.json()["errors"]) == ERRORS_SHOWN_MAX
        assert refused.json()["errorsTotal"] >= len(fields)
        assert len(refused.content) < RESPONSE_MAX_BYTES


def test_long_names_and_paths_are_not_repeated(api_workspace: ApiWorkspace) -> None:
    long = "x" * 3_500  # within this API's limit of a body
    account = api_workspace.account()
    patch = [{"op": "replace", "path": f"/{long}", "value": 1}]
    made = api_workspace.client().post(
        "/api/imports?kind=accounts",
        content="company\nAcme\n",
        headers={"Content-Type": "text/csv"},
    )
    lead = api_workspace.make("leads", name="Ada", phone="+442079460000").json()["id"]
    answers = [
        send(api_workspace, "POST", "/api/accounts", {long: 1}),
        send(api_workspace, "PATCH", f"/api/accounts/{account}", {long: None}),
        send(
            api_workspace,
            "PATCH",
            f"/api/accounts/{account}",
            patch,
            **{"Content-Type": "application/json-patch+json"},
        ),
        send(api_workspace, "PATCH", f"/api/imports/{made.json()['id']}", {"mapping": {long: "a"}}),
        send(
            api_workspace,
            "POST",
            "/api/leads/send-sms",
            {"leadId": lead, "templateId": "follow_up", "variables": {long: "a", "message": "b"}},
        ),
        api_workspace.client().get("/api/accounts", params={long: 1}),
    ]
    for answer in answers:
        assert 400 <= answer.status_code < 500, answer.text[:500]
        assert answer.status_code != 413
        assert len(answer.content) < 3_000


def test_nul_in_any_query_parameter_or_path_is_no_fault_of_the_server(
    api_workspace: ApiWorkspace,
) -> None:
    client = api_workspace.client()
    document = client.get("/openapi.json").json()
    some_id = str(uuid4())
    for path, methods in document["paths"].items():
        operation = methods.get("get")
        if operation is None or "stream" in path or path.startswith("/api/realtime"):
            continue
        address = path.replace("{id}", some_id).replace("{leadId}", some_id)
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "query":
                answer = client.get(address, params={parameter["name"]: NUL})
                assert answer.status_code < 500, (address, parameter["name"], answer.text)
        answer = client.get(path.replace("{", "").replace("}", "%00"))
        assert answer.status_code < 500, (path, answer.text)


@pytest.mark.parametrize("text", [b"a\\u0000b", b"a\\ud800b"], ids=["nul", "surrogate"])
def test_text_that_cannot_be_stored_is_refused_at_every_door(
    api_workspace: ApiWorkspace, text: bytes
) -> None:
    account, booking = api_workspace.account(), str(uuid4()).encode()
    lead = api_workspace.make("leads", name="Ada", phone="+442079460000").json()["id"]
    deletion = b'"change": {"delete": true}'
    confirmation = b'{"appointmentId": "%b", "confirmedBy": "?"}' % booking
    doors: list[tuple[str, str, bytes]] = [
        ("POST", "/api/accounts", b'{"company": "?", "type": "customer"}'),
        ("POST", "/api/accounts", b'{"company": "A", "type": "partner", "customFields": {"?": 1}}'),
        ("PATCH", f"/api/accounts/{account}", b'{"customFields": {"a": "?"}}'),
        ("PATCH", f"/api/accounts/{account}", b'{"company": "?"}'),
        ("PATCH", f"/api/accounts/{account}", b'{"?": null}'),
        ("POST", "/api/leads/send-sms", b'{"leadId": "%b", "message": "?"}' % lead.encode()),
        ("POST", f"/api/leads/{lead}/update-status", b'{"status": "?"}'),
        ("POST", "/api/bookings/confirm", confirmation),
        ("POST", "/api/keys", b'{"name": "?", "role": "member"}'),
        ("POST", "/api/undo", b'{"commandId": "?"}'),
        ("PATCH", "/api/workspace", b'{"name": "?"}'),
        ("POST", "/api/bulk", b'{"kind": "account", "filter": {"search": "?"}, %b}' % deletion),
        ("POST", "/api/bulk", b'{"kind": "account", "ids": ["?"], %b}' % deletion),
    ]
    for method, path, body in doors:
        answer = api_workspace.client().request(
            method, path, content=body.replace(b"?", text), headers=JSON
        )
        assert answer.status_code in (400, 404, 422), (path, body, answer.text)
        assert answer.json()["code"]
    changed = api_workspace.client().request(
        "POST",
        "/api/bulk",
        content=b'{"kind": "account", "ids": ["%b"], "change": {"set": {"company": "%b"}}}'
        % (account.encode(), text),
        headers=JSON,
    )
    assert changed.status_code == 400 or changed.json()["failed"] == 1, changed.text


def test_header_bytes_that_are_no_text_reach_the_history_as_they_are(
    api_workspace: ApiWorkspace,
) -> None:
    for value in (b"\x80\xff", b"a\x01b", b"x" * 7_000):
        made = api_workspace.client().post(
            "/api/accounts",
            json={"company": "Acme", "type": "customer"},
            headers=[(b"User-Agent", value)],
        )
        assert made.status_code in (201, 400), made.text
