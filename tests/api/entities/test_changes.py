"""Partial updates and preconditions: JSON Patch, merge patch, If-Match."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.api_server import ApiWorkspace

JSON_PATCH = {"Content-Type": "application/json-patch+json"}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


def patch(
    api_workspace: ApiWorkspace, *operations: Any, account: str | None = None
) -> httpx.Response:
    url = f"/api/accounts/{account or api_workspace.account(customFields={'a': 1}, dealValue='10')}"
    return api_workspace.client().patch(
        url, content=json.dumps(list(operations)), headers=JSON_PATCH
    )


def version(api_workspace: ApiWorkspace, account: str) -> int:
    history = api_workspace.client().get(f"/api/accounts/{account}/history").json()["items"]
    return int(history[-1]["version"])


def test_json_patch_is_applied_in_order(api_workspace: ApiWorkspace) -> None:
    response = patch(
        api_workspace,
        {"op": "test", "path": "/company", "value": "Acme"},
        {"op": "test", "path": "/nextAction", "value": None},
        {"op": "test", "path": "/dealValue", "value": "10.00"},
        {"op": "replace", "path": "/nextAction", "value": "Call"},
        {"op": "add", "path": "/customFields/b~1c", "value": True},
        {"op": "copy", "from": "/customFields/a", "path": "/customFields/d"},
        {"op": "move", "from": "/customFields/a", "path": "/customFields/e"},
        {"op": "remove", "path": "/dealValue"},
    )
    assert response.status_code == 200, response.text
    shown = response.json()
    assert shown["nextAction"] == "Call"
    assert shown["dealValue"] is None
    assert shown["customFields"] == {"b/c": True, "d": 1, "e": 1}
    assert shown["version"] == 2


def test_json_patch_is_all_or_nothing(api_workspace: ApiWorkspace) -> None:
    account = api_workspace.account()
    response = patch(
        api_workspace,
        {"op": "replace", "path": "/nextAction", "value": "Call"},
        {"op": "test", "path": "/company", "value": "Somebody else"},
        account=account,
    )
    assert (response.status_code, response.json()["code"]) == (409, "E5010")
    assert response.json()["operation"] == 1
    assert response.json()["path"] == "/company"
    assert version(api_workspace, account) == 1


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [
        ({"op": "test", "path": "/customFields/a", "value": True}, 409, "E5010"),
        ({"op": "test", "path": "/customFields", "value": {"a": True}}, 409, "E5010"),
        ({"op": "test", "path": "/nowhere", "value": None}, 409, "E5010"),
        ({"op": "replace", "path": "/nowhere", "value": 1}, 409, "E5011"),
        ({"op": "remove", "path": "/customFields/z"}, 409, "E5011"),
        ({"op": "move", "from": "/customFields/z", "path": "/company"}, 409, "E5011"),
        ({"op": "add", "path": "/company/x", "value": 1}, 409, "E5011"),
        ({"op": "add", "path": "/colour", "value": "red"}, 422, "E2005"),
        ({"op": "add", "path": "/version", "value": 9}, 422, "E2005"),
        ({"op": "remove", "path": "/company"}, 422, "E2001"),
        ({"op": "replace", "path": "/status", "value": "asleep"}, 422, "E2006"),
        ({"op": "replace", "path": "", "value": 7}, 400, "E2026"),
        ({"op": "increment", "path": "/company"}, 400, "E2027"),
        ({"op": "add", "path": "/company"}, 400, "E2027"),
        ({"op": "add", "value": 1}, 400, "E2027"),
        ({"op": "add", "path": "company", "value": 1}, 400, "E2027"),
        ({"op": "add", "path": "/a~2", "value": 1}, 400, "E2027"),
        ({"op": "add", "path": 7, "value": 1}, 400, "E2027"),
        ({"op": ["add"], "path": "/company", "value": 1}, 400, "E2027"),
        ({"op": "copy", "path": "/company"}, 400, "E2027"),
        ("add", 400, "E2027"),
    ],
)
def test_failing_operation_has_its_code(
    api_workspace: ApiWorkspace, operation: Any, status: int, code: str
) -> None:
    response = patch(api_workspace, operation)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


def test_size_of_a_json_patch_is_limited(api_workspace: ApiWorkspace) -> None:
    doubling = [
        {"op": "copy", "from": "/customFields", "path": f"/customFields/{n}"} for n in range(60)
    ]
    response = patch(api_workspace, *doubling[:30])
    assert (response.status_code, response.json()["code"]) == (400, "E2027")
    many = [{"op": "remove", "path": "/x"}] * 101
    assert patch(api_workspace, *many).json()["code"] == "E2027"


@pytest.mark.parametrize("headers", [MERGE_PATCH, {"Content-Type": "application/json"}])
def test_merge_patch_merges_and_null_removes(
    api_workspace: ApiWorkspace, headers: dict[str, str]
) -> None:
    account = api_workspace.account(customFields={"a": 1, "b": 2}, nextAction="Call")
    content = json.dumps({"nextAction": None, "customFields": {"a": None, "c": 3}})
    response = api_workspace.client().patch(
        f"/api/accounts/{account}", content=content, headers=headers
    )
    assert response.status_code == 200, response.text
    assert response.json()["nextAction"] is None
    assert response.json()["customFields"] == {"b": 2, "c": 3}


def test_patch_without_a_change_records_nothing(api_workspace: ApiWorkspace) -> None:
    account = api_workspace.account(nextAction="Call")
    response = api_workspace.client().patch(f"/api/accounts/{account}", json={"nextAction": "Call"})
    assert response.headers["ETag"].startswith('"1-')
    assert int(response.headers["Annals-Position"]) > 0
    assert version(api_workspace, account) == 1


@pytest.mark.parametrize("content", ["[]", '"text"', "null", "7"])
def test_merge_patch_that_is_no_object_is_400(api_workspace: ApiWorkspace, content: str) -> None:
    response = api_workspace.client().patch(
        f"/api/accounts/{api_workspace.account()}", content=content, headers=MERGE_PATCH
    )
    assert (response.status_code, response.json()["code"]) == (400, "E2026")


@pytest.mark.parametrize(
    ("if_match", "status"),
    [
        ('"2"', 200),
        ("*", 200),
        ('"1", "2"', 200),
        ('"9","2" , "1"', 200),
        ('"1"', 412),
        ('"3"', 412),
        ('W/"2"', 412),
        ('"two"', 412),
        ('"1", W/"2"', 412),
        ("2", 400),
        ('"2', 400),
        ('"1" "2"', 400),
        ("* , *", 400),
        (", ".join(['"1"'] * 30), 400),
    ],
)
def test_if_match_lists_the_versions_that_may_be_changed(
    api_workspace: ApiWorkspace, if_match: str, status: int
) -> None:
    url = f"/api/accounts/{api_workspace.account()}"
    client = api_workspace.client()
    client.patch(url, json={"nextAction": "Call"})
    headers = {"If-Match": if_match}
    response = client.patch(url, json={"nextAction": "Write"}, headers=headers)
    assert response.status_code == status, response.text
    if status == 412:
        assert response.json()["code"] == "E5008"
        assert response.json()["actual"] == 2
    if status == 400:
        assert response.json()["code"] == "E2033"
    assert client.delete(url, headers={"If-Match": '"1"'}).status_code == 412
    assert client.post(f"{url}/restore", headers={"If-Match": '"1"'}).status_code == 412


def test_two_if_match_headers_are_one_list(api_workspace: ApiWorkspace) -> None:
    url = f"/api/accounts/{api_workspace.account()}"
    lines = [("If-Match", '"7"'), ("If-Match", '"1"')]
    assert (
        api_workspace.client().patch(url, json={"nextAction": "x"}, headers=lines).status_code
        == 200
    )
