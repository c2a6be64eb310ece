"""Compiled routes answer as FastAPI would: same route, values, and errors in the same order."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from starlette.routing import Match

from api.app import create_app
from api.http.direct.routes import DirectRoutes, direct_routes
from api.http.problems import handle_errors
from runtime.settings import Settings

ID = "018f0000-0000-7000-8000-000000000001"
APP = create_app(Settings())
ROUTES = direct_routes(APP)
calls: list[str] = []


@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
def test_the_route_is_the_one_that_the_framework_finds(method: str, path: str) -> None:
    scope: dict[str, Any] = {"type": "http", "method": method, "headers": []}
    scope |= {"path": path.replace("{}", ID), "root_path": "", "app": APP}
    for candidate in APP.router.routes:
        match, child = candidate.matches(scope)
        if match is Match.FULL:
            included = getattr(candidate, "_match", None)
            route = included(scope)[2] if included else child.get("route", candidate)
            assert route is ROUTES[method, path].route
            return
    pytest.fail("the framework finds no route")


def test_lists_details_and_writes_of_entities_are_compiled() -> None:
    for method, path in (
        ("GET", "/api/accounts"),
        ("POST", "/api/accounts"),
        ("GET", "/api/accounts/{}"),
        ("PATCH", "/api/accounts/{}"),
        ("DELETE", "/api/tasks/{}"),
        ("GET", "/api/leads/{}/sms-history"),
    ):
        assert (method, path) in ROUTES


async def shared(request: Request) -> int:
    calls.append("shared")
    return len(request.scope["path_params"])


async def first(given: Annotated[int, Depends(shared)], number: Annotated[int, Query()] = 1) -> int:
    calls.append("first")
    return given + number


def in_thread(given: Annotated[int, Depends(shared)]) -> int:
    calls.append("in_thread")
    return given + 2


def ask(method: str, path: str, **options: Any) -> httpx.Response:
    """Send a request to a small app, whose routes are compiled."""
    return ask_again(1, method, path, is_direct=True, **options)[0]


def ask_again(
    times: int, method: str, path: str, *, is_direct: bool, **options: Any
) -> list[httpx.Response]:
    """Send the same request several times to a small app."""
    app = FastAPI(dependencies=[Depends(shared)])

    @app.get("/sum/{id:uuid}")
    async def total(
        one: Annotated[int, Depends(first)],
        two: Annotated[int, Depends(in_thread)],
        count: Annotated[int, Query(ge=1)] = 5,
        mark: Annotated[int | None, Header(alias="X-Mark")] = None,
    ) -> Response:
        calls.append("total")
        return Response(f"{one} {two} {count} {mark}")

    handle_errors(app)
    if is_direct:
        app.add_middleware(DirectRoutes, routes=direct_routes(app))

    async def answered() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://annals") as client:
            return [await client.request(method, path, **options) for _ in range(times)]

    return asyncio.run(answered())


@pytest.mark.parametrize(
    ("query", "mark"),
    [
        ("", None),
        ("?number=7", "3"),
        ("?number=seven", None),
        ("?count=0", "three"),
        ("?count=0&number=seven", "three"),
        ("?count=", None),
        ("?count=3&number=7", None),
        (f"?count=3&number={'0' * 400}7", None),
    ],
)
def test_calls_values_and_errors_are_those_of_the_framework(query: str, mark: str | None) -> None:
    found = []
    for is_direct in (False, True):
        calls.clear()
        headers = {"X-Mark": mark} if mark else {}
        answers = ask_again(3, "GET", f"/sum/{ID}{query}", is_direct=is_direct, headers=headers)
        found.append(([(each.status_code, each.content) for each in answers], list(calls)))
    assert found[0] == found[1]


def test_other_paths_and_methods_are_left_to_the_framework() -> None:
    assert ask("GET", "/sum/7").status_code == 404
    assert ask("POST", f"/sum/{ID}").status_code == 405
