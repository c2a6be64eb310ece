"""The comparison of responses with the document notices what the document does not say."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from api.app import create_app
from runtime.settings import Settings
from tests.support.api_server import Api, contract_of
from tests.support.contract import Contract

CONTRACT = Contract(create_app(Settings()).openapi())
ID = "0199c0de-0000-7000-8000-000000000001"
WRITE = {
    "Content-Type": "application/json",
    "ETag": '"1-9f86d081884c7d65"',
    "Location": f"/api/notes/{ID}",
    "Annals-Position": "7",
    "Annals-Command": ID,
    "X-Request-Id": "r-1",
}
TIME = "2026-01-31T12:00:00+00:00"
NOTE: dict[str, Any] = {
    "id": ID,
    "accountId": ID,
    "assignedTo": None,
    "customFields": {},
    "title": None,
    "body": "Likes tea.",
    "createdAt": TIME,
    "updatedAt": TIME,
    "version": 1,
}
PROBLEM = {
    "type": "/api/errors/E5002",
    "title": "x",
    "status": 404,
    "detail": "x",
    "code": "E5002",
    "instance": "/",
    "requestId": "r-1",
}


def check(
    body: Any = NOTE,
    status: int = 201,
    given: Any = None,
    path: str = "/api/notes",
    **headers: str | None,
) -> None:
    """Check the response to POST /api/notes, with these differences from a described one."""
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    shown = {name: value for name, value in (WRITE | changed).items() if value is not None}
    valid = {"body": "Likes tea.", "accountId": ID}
    request = httpx.Request("POST", f"http://test{path}", json=valid if given is None else given)
    CONTRACT.check(httpx.Response(status, headers=shown, json=body, request=request))


def test_clients_of_the_tests_check_their_responses(api: Api) -> None:
    (hook,) = api.client().event_hooks["response"]
    assert hook == contract_of(api.app).check


def test_described_response_passes() -> None:
    check()
    check(path="/elsewhere", status=299)


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"status": 202}, "is not described"),
        ({"Content_Type": "text/html"}, "is text/html and not"),
        ({"body": NOTE | {"extra": 1}}, "extra"),
        ({"body": NOTE | {"version": "1"}}, "version"),
        ({"body": NOTE | {"createdAt": "yesterday"}}, "date-time"),
        ({"body": {name: NOTE[name] for name in NOTE if name != "title"}}, "title"),
        ({"Location": None}, "has no Location"),
        ({"Annals_Position": "x"}, "Annals-Position"),
        ({"WWW_Authenticate": "Bearer"}, "does not describe WWW-Authenticate"),
        ({"given": {"body": "", "accountId": ID}}, "accepts"),
        ({"given": {"body": "x", "accountId": ID, "unknown": 1}}, "accepts"),
    ],
)
def test_difference_is_noticed(difference: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(**difference)


def test_code_that_the_route_does_not_name_is_noticed() -> None:
    of_problem: dict[str, Any] = {
        "ETag": None,
        "Location": None,
        "Annals_Position": None,
        "Annals_Command": None,
    }
    with pytest.raises(AssertionError, match="404 is not described"):
        check(PROBLEM, 404, Content_Type="application/problem+json", **of_problem)
    unknown = PROBLEM | {"status": 409, "code": "E5014"}
    with pytest.raises(AssertionError, match="does not name E5014"):
        check(unknown, 409, Content_Type="application/problem+json", **of_problem)
