"""Actions of one kind: commands other than create, change, delete, restore.

Each is a route POST /api/<plural>/{id}/<action>. No postponed annotations here: the framework
evaluates those of functions within functions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Depends, Request, Response

from api.dependencies.annotated import EntityId, Executor, ServicesDep, Versions
from api.dependencies.request import require_write_capacity
from api.entities.resource import example_response
from api.entities.writing import entity_response
from api.http.auth import Caller, require_permission
from api.http.bodies import (
    Body,
    RequestModel,
    parse_body,
    read_body,
    require_body,
    require_media_type,
)
from api.http.conditions import decision_if_match
from api.http.openapi.bodies import request_body
from api.http.openapi.models import entity_model
from api.http.openapi.responses import ON_BODY, ON_FIELDS, ON_VERSION, ON_WRITE, problems, success
from commands.decisions import Decision
from commands.permissions import write_permission
from domain.shared.entity import Entity
from eventlog.scope import Scope
from runtime import codes
from runtime.codes.code import ErrorCode
from runtime.patches import JSON_TYPE

E = TypeVar("E", bound=Entity)
M = TypeVar("M", bound=RequestModel)


class Nothing(RequestModel):
    """The body of an action without parameters."""


@dataclass(frozen=True)
class EntityAction(Generic[E, M]):
    """An action: its body, and the method of the aggregate that decides."""

    name: str
    """`send`: the last part of the path, and the beginning of the operationId."""
    summary: str
    decide: Callable[[E, M, datetime], None]
    body: type[M]
    example: dict[str, Any] = field(default_factory=dict)
    refusals: tuple[ErrorCode, ...] = ()
    """Errors besides those of every action."""
    shows: dict[str, Any] = field(default_factory=dict)
    """Fields that the action sets, for the example of its response."""
    path: str = ""
    """The last part of the path, if it differs from the name."""

    @property
    def requires_body(self) -> bool:
        """Whether the body has a required member."""
        return any(each.is_required() for each in self.body.model_fields.values())


def add_action_routes(
    router: APIRouter, kind: type[E], *actions: EntityAction[E, Any], example: dict[str, Any]
) -> None:
    """Add a route for each of the actions to the router of the kind."""
    for each in actions:
        _add_action(router, kind, each, example_response(kind, {**example, **each.shows}))


def _add_action(
    router: APIRouter, kind: type[E], action: EntityAction[E, M], example: dict[str, Any]
) -> None:
    done = success("Done.", entity_model(kind), "ETag", "Annals-Position", example=example)
    possible = (codes.NOT_FOUND, codes.IS_DELETED, codes.TRANSITION_REFUSED, *action.refusals)
    read = require_body(JSON_TYPE) if action.requires_body else _optional_body

    @router.post(
        f"/{{id:uuid}}/{action.path or action.name}",
        operation_id=f"{action.name}{kind.__name__}",
        summary=action.summary,
        responses={
            200: done,
            **problems(*ON_BODY, *ON_FIELDS, *ON_VERSION, *ON_WRITE, *possible),
        },
        openapi_extra=_body_description(action),
        dependencies=[Depends(require_write_capacity)],
    )
    async def run(
        entity_id: EntityId,
        services: ServicesDep,
        _caller: Annotated[Caller, Depends(require_permission(write_permission(kind)))],
        versions: Versions,
        body: Annotated[Body, Depends(read)],
        executor: Executor,
    ) -> Response:
        def decide(_scope: Scope) -> Decision:
            request = parse_body(action.body, body)
            acting = partial(
                services.commands.acting,
                kind,
                entity_id,
                lambda entity, at: action.decide(entity, request, at),
            )
            return decision_if_match(versions, lambda version: acting(expected_version=version))

        return await executor.commit(decide, entity_response, body)


async def _optional_body(request: Request) -> Body:
    """Dependency: return the body, or an empty object if there is none."""
    content = await read_body(request)
    if not content:
        return Body(JSON_TYPE, b"{}")
    return Body(require_media_type(request, (JSON_TYPE,)), content)


def _body_description(action: EntityAction[Any, Any]) -> dict[str, Any] | None:
    if not action.body.model_fields:
        return None
    described = request_body({JSON_TYPE: (action.body, action.example)})
    described["requestBody"]["required"] = action.requires_body
    return described
