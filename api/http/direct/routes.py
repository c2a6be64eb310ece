"""Finds the route of a request by its path, and runs its plan.

FastAPI tries the patterns of all routers in turn, and those of the found router again, because
patterns may overlap. The paths of this API are literal, or literal but for one id, so a look-up
finds the route. What has no plan here is answered by FastAPI: unknown paths and methods, paths with
other parameters, WebSockets.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.direct.plan import PATH_TYPES, NotCompiled, Plan, compile_plan
from api.http.problems import EXPECTED_ERRORS, problem_response

ID_SEGMENT = re.compile(
    r"/([0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12})(?=/|$)"
)
"""An id as one segment of a path, as Starlette's convertor takes it."""
ID_MARK = "/{}"


@dataclass(frozen=True)
class DirectRoute:
    """A route with its plan."""

    route: APIRoute
    plan: Plan
    id_name: str | None
    """The name of the id in its path, None for a literal path."""


Routes = Mapping[tuple[str, str], DirectRoute]
"""By method and path, which has `{}` in place of an id."""


def direct_routes(app: FastAPI) -> Routes:
    """Return the routes of the app that have a plan."""
    found: dict[tuple[str, str], DirectRoute] = {}
    for context in iter_route_contexts(app.routes):
        route = _direct(context)
        if route is None:
            continue
        path = context.path_format or ""
        if route.id_name is not None:
            path = path.replace(f"/{{{route.id_name}}}", ID_MARK)
        for method in context.methods or ():
            found.setdefault((method, path), route)
    return found


class DirectRoutes:
    """ASGI middleware: answers requests to routes with a plan, and passes on all others."""

    def __init__(self, app: ASGIApp, *, routes: Routes) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on."""
        if scope["type"] == "http" and not scope.get("root_path"):
            path, given = _with_mark(scope["path"])
            route = self._routes.get((scope["method"], path))
            if route is not None:
                await _answer(route, given, scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _answer(
    found: DirectRoute, given: str | None, scope: Scope, receive: Receive, send: Send
) -> None:
    scope["route"] = found.route
    scope["endpoint"] = found.route.endpoint
    scope["path_params"] = {} if given is None else {found.id_name: UUID(given)}
    request = Request(scope, receive, send)
    has_started = False

    async def send_on(message: Message) -> None:
        nonlocal has_started
        has_started = True
        await send(message)

    try:
        response = await found.plan.run(request)
        await response(scope, receive, send_on)
    except EXPECTED_ERRORS as error:
        if has_started:
            raise RuntimeError("the response had begun before this error") from error
        response = await problem_response(request, error)
        await response(scope, receive, send)
        error.__traceback__ = None  # an error that is raised again would collect frames


def _with_mark(path: str) -> tuple[str, str | None]:
    """Replace the first id in a path by the mark; return the path and the id."""
    found = ID_SEGMENT.search(path)
    if found is None:
        return path, None
    return path[: found.start()] + ID_MARK + path[found.end() :], found[1]


def _direct(context: RouteContext) -> DirectRoute | None:
    route = context.original_route
    if not isinstance(route, APIRoute) or not _returns_response(context.endpoint):
        return None
    convertors = route.param_convertors
    types = {name: PATH_TYPES.get(type(each).__name__, str) for name, each in convertors.items()}
    if len(types) > 1 or not set(types.values()) <= {UUID}:
        return None
    try:
        plan = compile_plan(context.dependant, types)
    except NotCompiled:
        return None
    return DirectRoute(route, plan, next(iter(types), None))


def _returns_response(endpoint: Any) -> bool:
    returned = inspect.get_annotations(endpoint, eval_str=True).get("return")
    return inspect.isclass(returned) and issubclass(returned, Response)
