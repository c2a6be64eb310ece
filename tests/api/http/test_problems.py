"""Every failure has a code and a message, and reveals no internals."""

from __future__ import annotations

import ast
import dataclasses
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from eventsourcing.persistence import IntegrityError, OperationalError, PersistenceError
from fastapi import FastAPI
from psycopg_pool import PoolTimeout, TooManyRequests
from pydantic.alias_generators import to_camel

from api.app import create_app
from api.http.middleware import RequestContext
from api.http.problems import handle_errors, problem
from api.http.representation.reads import allow_header
from commands.importing.issues import ImportFault
from domain.shared.refusals import (
    Conflict,
    InvalidFields,
    KeyRevoked,
    OpenOpportunities,
    Refusal,
    UndoConflict,
)
from readmodels import pool
from runtime import codes
from runtime.codes import CODES
from runtime.codes.code import ErrorCode
from runtime.errors import (
    CODES_BY_IMPORT_FAULT,
    CODES_BY_REFUSAL,
    FACTS_SHOWN_MAX,
    RESERVED,
    ApiError,
    as_api_error,
    documentation,
)
from runtime.logs import JsonLines
from runtime.settings import REPOSITORY, Settings
from tests.support.api_server import Api, ApiWorkspace, free_port, serving
from tests.support.waiting import wait_until

LOG_TIMEOUT_S = 60.0
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}

TITLES = {
    "E1001": "Invalid email or password.",
    "E1002": "Session expired.",
    "E2001": "Name is required.",
    "E2002": "Invalid email.",
    "E3001": "Database connection failed.",
    "E4001": "Request timed out.",
    "E5001": "Cannot delete an organization with active opportunities.",
}
FAMILIES = {
    "1": {401, 403, 429},
    "3": {429, 500, 503, 507},
    "4": {408, 414, 421, 429, 431, 500, 503, 504},
    "5": {404, 409, 410, 412, 422, 429},
}


def test_error_codes_are_complete() -> None:
    assert len(CODES) >= 30
    assert {code: CODES[code].title for code in TITLES} == TITLES
    for code, entry in CODES.items():
        assert re.fullmatch(r"E[1-5][0-9]{3}", code)
        assert entry.title.endswith(".")
        assert len(entry.explanation) > 10
        if code[1] in FAMILIES:
            assert entry.status in FAMILIES[code[1]]


def test_page_of_error_codes_is_current() -> None:
    assert (REPOSITORY / "docs" / "errors.md").read_text("utf-8") == documentation()


def test_every_code_is_used_or_reserved() -> None:
    sources = "".join(
        path.read_text("utf-8")
        for package in ("api", "runtime", "server")
        for path in (REPOSITORY / package).rglob("*.py")
        if path.parent.name not in ("codes", "openapi")
    )
    names = {id(value): name for name, value in vars(codes).items()}
    unused = {code for code, entry in CODES.items() if f"codes.{names[id(entry)]}" not in sources}
    assert unused == {"E1001", "E1002"}


def test_no_fact_of_a_refusal_has_the_name_of_a_member_of_every_problem() -> None:
    hidden = {
        f"{refusal.__name__}.{field.name}"
        for refusal in CODES_BY_REFUSAL
        if refusal is not InvalidFields
        for field in dataclasses.fields(cast(Any, refusal))
        if to_camel(field.name) in {*RESERVED, "errors", "errorsTotal"}
    }
    assert hidden == set()


def test_no_error_is_raised_with_a_fact_that_every_problem_has() -> None:
    calls = [
        (path, node)
        for package in ("api", "runtime", "server")
        for path in (REPOSITORY / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ApiError"
    ]
    assert len(calls) > 30
    named = {keyword.arg for _, call in calls for keyword in call.keywords}
    assert RESERVED.isdisjoint(named - {"detail"})
    with pytest.raises(AssertionError):
        ApiError(codes.NOT_FOUND, status="open")


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.code)
def test_facts_stand_beside_the_members_of_every_problem(code: ErrorCode) -> None:
    error = ApiError(code, "Why.", kind="account", entityId="1")
    answered = json.loads(bytes(problem(error, path="/api/accounts", request_id="r").body))
    assert answered == {
        "type": f"/api/errors/{code.code}",
        "title": code.title,
        "status": code.status,
        "detail": "Why.",
        "instance": "/api/accounts",
        "code": code.known_as or code.code,
        "requestId": "r",
        "kind": "account",
        "entityId": "1",
        **({"errorCode": code.code} if code.known_as else {}),
    }


def test_lists_among_the_facts_are_cut() -> None:
    at = datetime(2026, 1, 31, tzinfo=UTC)
    open_ones = as_api_error(OpenOpportunities(uuid4(), [uuid4() for _ in range(10_000)])).facts
    assert len(open_ones["opportunityIds"]) == FACTS_SHOWN_MAX
    assert open_ones["opportunityIdsTotal"] == 10_000
    conflicts = [Conflict("lead", uuid4(), "name", 1, {"type": "key"}, at, True)] * 5_000
    undone = as_api_error(UndoConflict(conflicts)).facts
    assert (len(undone["conflicts"]), undone["conflictsTotal"]) == (FACTS_SHOWN_MAX, 5_000)
    few = as_api_error(UndoConflict(conflicts[:FACTS_SHOWN_MAX])).facts
    assert (len(few["conflicts"]), few.get("conflictsTotal")) == (FACTS_SHOWN_MAX, None)


def test_error_codes_are_served_without_a_key(api: Api) -> None:
    items = api.client().get("/api/errors").json()["items"]
    assert {each["code"] for each in items} == set(CODES)
    one = api.client().get("/api/errors/E5001").json()
    assert one["title"] == TITLES["E5001"]
    assert api.client().get("/api/errors/E9999").json()["code"] == "E5002"


def test_every_refusal_has_a_code() -> None:
    assert set(CODES_BY_REFUSAL) == set(Refusal.__subclasses__())
    assert set(CODES_BY_IMPORT_FAULT) == set(ImportFault)


def test_error_of_a_refusal_has_its_facts() -> None:
    account, opportunity = uuid4(), uuid4()
    error = as_api_error(OpenOpportunities(account, [opportunity]))
    assert error.code.code == "E5001"
    assert error.facts == {"accountId": str(account), "opportunityIds": [str(opportunity)]}
    assert as_api_error(KeyRevoked(account)).code.code == "E5009"


def with_cause(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (psycopg.OperationalError("connection refused"), "E3001"),
        (OperationalError("connection refused"), "E3001"),
        (with_cause(OperationalError("x"), psycopg.errors.AdminShutdown("x")), "E3001"),
        (with_cause(OperationalError("x"), PoolTimeout("x")), "E3001"),
        (with_cause(OperationalError("x"), TooManyRequests("x")), "E3002"),
        (with_cause(OperationalError("x"), psycopg.errors.LockNotAvailable("x")), "E3002"),
        (with_cause(OperationalError("x"), psycopg.errors.QueryCanceled("x")), "E4001"),
        (psycopg.errors.QueryCanceled("x"), "E4001"),
        (with_cause(IntegrityError("x"), psycopg.errors.UniqueViolation("x")), "E3004"),
        (PersistenceError("x"), "E3005"),
        (psycopg.errors.UndefinedTable("x"), "E3005"),
        (ZeroDivisionError(), "E4500"),
    ],
)
def test_database_failures_have_different_codes(error: Exception, code: str) -> None:
    assert as_api_error(error).code.code == code


def test_problem_document_has_all_members(api_workspace: ApiWorkspace) -> None:
    missing = uuid4()
    refused = api_workspace.client().get(
        f"/api/accounts/{missing}?asOf=1", headers={"X-Request-Id": "r-1"}
    )
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json() == {
        "type": "/api/errors/E5002",
        "title": "There is no such thing in this workspace.",
        "status": 404,
        "detail": "There is no such thing in this workspace.",
        "instance": f"/api/accounts/{missing}",
        "code": "E5002",
        "requestId": "r-1",
        "kind": "account",
        "entityId": str(missing),
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "E2040"),
        ("GET", "/api/accounts/", 404, "E2040"),
        ("GET", "/api/accounts/not-an-id", 404, "E2040"),
        ("PUT", "/api/accounts", 405, "E2041"),
        ("GET", "/api/accounts/import", 404, "E2040"),
        ("GET", "/api/bulk/x", 404, "E2040"),
    ],
)
def test_errors_of_the_framework_have_codes(
    api_workspace: ApiWorkspace, method: str, path: str, status: int, code: str
) -> None:
    refused = api_workspace.client().request(method, path)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert refused.headers["X-Request-Id"] == refused.json()["requestId"]
    if status == 405:
        assert refused.headers["Allow"] == "GET, HEAD, OPTIONS, POST"


def declared_methods(api: Api) -> dict[str, set[str]]:
    """Return the methods of each path of the API."""
    return {
        path: {method.upper() for method in operations}
        for path, operations in api.app.openapi()["paths"].items()
    }


def test_other_methods_of_every_path_are_405_with_the_methods_of_the_path(api: Api) -> None:
    client, wrong = api.client(), []
    for template, allowed in declared_methods(api).items():
        path = re.sub("{[^}]*}", str(uuid4()), template)
        for method in sorted(METHODS - allowed):
            refused = client.request(method, path)
            said = (refused.status_code, refused.json()["code"], refused.headers.get("Allow"))
            if said != (405, "E2041", allow_header(sorted(allowed))):
                wrong.append((method, path, said))
    assert wrong == []


@pytest.mark.parametrize("word", ["import", "update-status", "1", "%2e", "0" * 31])
def test_word_in_place_of_an_id_is_404_or_the_path_of_that_name(api: Api, word: str) -> None:
    client, wrong, declared = api.client(), [], declared_methods(api)
    for template, allowed in declared.items():
        if not re.search("{(id|[a-z]+Id)}", template):
            continue
        path = re.sub("{[^}]*}", word, template)
        for method in sorted(METHODS if path in declared else allowed):
            if method in declared.get(path, ()):
                continue
            refused = client.request(method, path)
            said = (refused.status_code, refused.headers.get("Allow"))
            literal = (405, allow_header(sorted(declared.get(path, ()))))
            if said != (literal if path in declared else (404, None)):
                wrong.append((method, path, said))
    assert wrong == []


@pytest.mark.parametrize("given", ["", "a b", "ü", "x" * 129, "<script>"])
def test_invalid_request_id_is_replaced(api: Api, given: str) -> None:
    headers = [(b"X-Request-Id", given.encode())]
    answered = api.client().get("/healthz", headers=headers).headers["X-Request-Id"]
    assert UUID(answered).version == 7


def test_valid_request_id_is_kept(api: Api) -> None:
    for given in ("abc-123", "x" * 128):
        answer = api.client().get("/healthz", headers={"X-Request-Id": given})
        assert answer.headers["X-Request-Id"] == given


@pytest.fixture(scope="module")
def broken() -> Iterator[httpx.Client]:
    """A client of an app with a route that raises an unexpected error."""
    app = FastAPI()
    handle_errors(app)
    app.add_middleware(RequestContext, access_log=True)

    @app.get("/works")
    async def works() -> None:
        """Answer with 200."""

    @app.get("/fails")
    async def fails() -> None:
        raise ZeroDivisionError("the password is swordfish")

    with serving(app, free_port()) as url, httpx.Client(base_url=url) as client:
        yield client


def test_unexpected_error_is_logged_but_not_shown(
    broken: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = broken.get("/fails", headers={"X-Request-Id": "r-2"})
    assert (answer.status_code, answer.json()["code"]) == (500, "E4500")
    assert answer.headers["X-Request-Id"] == "r-2"
    assert "swordfish" not in answer.text
    assert "ZeroDivisionError" not in answer.text
    assert "swordfish" in caplog.text


def request_lines(caplog: pytest.LogCaptureFixture, request_id: str) -> list[dict[str, Any]]:
    """Return the log lines with this request id; the request is logged after its answer."""
    found: list[dict[str, Any]] = []

    def is_logged() -> bool:
        lines = [json.loads(line) for line in caplog.text.splitlines() if line.startswith("{")]
        found[:] = [line for line in lines if line.get("requestId") == request_id]
        return any(line["message"] == "request" for line in found)

    wait_until(is_logged, "the request is logged", timeout_s=LOG_TIMEOUT_S)
    return found


@pytest.mark.parametrize(("path", "status"), [("/works", 200), ("/fails", 500)])
def test_log_line_is_json_with_the_request_id(
    broken: httpx.Client, caplog: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    caplog.set_level(logging.INFO, "annals.request")
    caplog.handler.setFormatter(JsonLines())
    headers = {"X-Request-Id": f"r-{status}", "Authorization": "Bearer swordfish"}
    broken.get(f"{path}?token=trout", headers=headers)
    (*others, request) = request_lines(caplog, f"r-{status}")
    assert request["status"] == status
    assert request["path"] == path
    assert request["method"] == "GET"
    assert request["durationMs"] >= 0
    assert len(others) == (1 if status == 500 else 0)
    assert "trout" not in str(request)
    assert "Bearer" not in caplog.text


def test_requests_are_not_logged_by_default(
    api_workspace: ApiWorkspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "annals.request")
    for _ in range(2):
        api_workspace.client().get("/healthz")
    assert [each for each in caplog.records if each.name == "annals.request"] == []


def test_unreachable_database_is_e3001(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "READ_POOL_WAIT_S", 0.3)
    url = f"postgresql://annals_app@127.0.0.1:{free_port()}/nowhere"
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    app = create_app(Settings(owner_url=url, app_url=url, projector_url=url))
    with serving(app, free_port()) as served, httpx.Client(base_url=served) as client:
        assert client.get("/livez").status_code == 200
        for path in ("/readyz", "/healthz"):
            lost = client.get(path)
            assert (lost.status_code, lost.json()["code"]) == (503, "E3001")
            assert lost.headers["Retry-After"] == "1"
        key = f"annals_{uuid4().hex}_secret"
        lost = client.get("/api/accounts", headers={"Authorization": f"Bearer {key}"})
        assert lost.json()["code"] == "E3001"
        assert "127.0.0.1" not in lost.text
