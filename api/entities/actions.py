"""Routes for what a kind does by a command of its own: POST /api/<plural>/{id}/<step>.

No postponed annotations here: the framework evaluates those of functions within functions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from api.dependencies.idempotency import Executor
from api.dependencies.request import require_write_capacity
from api.entities.resource import example_as_shown
from api.entities.routes import EntityId, ServicesDep, Versions, written
from api.http.auth import Caller, Permission, require_permission
from api.http.bodies import Body, body_of, checked, read_body, require_media_type
from api.http.conditions import on_versions
from api.http.openapi import (
    ON_BODY,
    ON_FIELDS,
    ON_VERSION,
    ON_WRITE,
    body,
    entity_model,
    problems,
    success,
)
from domain.shared.entity import Entity
from eventlog.scope import Scope
from runtime import codes
from runtime.codes.code import ErrorCode
from runtime.patches import JSON_TYPE

E = TypeVar("E", bound=Entity)
G = TypeVar("G", bound="Given")


class Given(BaseModel):
    """What the body of a step may hold; unknown members are refused."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


class Nothing(Given):
    """Nothing has to be said."""


@dataclass(frozen=True)
class EntityAction(Generic[E, G]):
    """A command of one kind: what it takes, and the aggregate's method that decides."""

    name: str
    """`send`: the last part of the path, and the beginning of the operation's id."""
    summary: str
    decide: Callable[[E, G, datetime], None]
    given: type[G]
    example: dict[str, Any] = field(default_factory=dict)
    refusals: tuple[ErrorCode, ...] = ()
    """What it may be refused by, besides what every step may be."""
    shows: dict[str, Any] = field(default_factory=dict)
    """Fields that the answer shows after it, for the description."""
    path: str = ""
    """Where it is not the name."""

    @property
    def needs_body(self) -> bool:
        """Whether something has to be said."""
        return any(each.is_required() for each in self.given.model_fields.values())


def add_action_routes(
    router: APIRouter,
    kind: type[E],
    *steps: EntityAction[E, Any],
    example: dict[str, Any],
    write: Permission = Permission.WRITE,
) -> None:
    """Add a route for each of the steps to the router of the kind."""
    for each in steps:
        _add_step(router, kind, each, example_as_shown({**example, **each.shows}), write)


async def _maybe_body(request: Request) -> Body:
    """A dependency: the body, an empty object where there is none."""
    content = await read_body(request)
    if not content:
        return Body(JSON_TYPE, b"{}")
    return Body(require_media_type(request, (JSON_TYPE,)), content)


def _description(step: EntityAction[Any, Any]) -> dict[str, Any] | None:
    """The body as the API's description has it, None where there is nothing to be said."""
    if not step.given.model_fields:
        return None
    described = body({JSON_TYPE: (step.given, step.example)})
    described["requestBody"]["required"] = step.needs_body
    return described


def _add_step(
    router: APIRouter,
    kind: type[E],
    step: EntityAction[E, G],
    example: dict[str, Any],
    write: Permission,
) -> None:
    done = success("Done.", entity_model(kind), "ETag", "Annals-Position", example=example)
    possible = (codes.NOT_FOUND, codes.IS_DELETED, codes.TRANSITION_REFUSED, *step.refusals)

    @router.post(
        f"/{{id}}/{step.path or step.name}",
        operation_id=f"{step.name}{kind.__name__}",
        summary=step.summary,
        responses={
            200: done,
            **problems(*ON_BODY, *ON_FIELDS, *ON_VERSION, *ON_WRITE, *possible),
        },
        openapi_extra=_description(step),
        dependencies=[Depends(require_write_capacity)],
    )
    def act(
        entity_id: EntityId,
        services: ServicesDep,
        _caller: Annotated[Caller, Depends(require_permission(write))],
        versions: Versions,
        given: Annotated[Body, Depends(body_of(JSON_TYPE) if step.needs_body else _maybe_body)],
        executor: Executor,
    ) -> Response:
        def do(scope: Scope) -> Response:
            asked = checked(step.given, given)
            act = partial(
                services.commands.act,
                scope,
                kind,
                entity_id,
                lambda entity, at: step.decide(entity, asked, at),
            )
            return written(on_versions(versions, lambda version: act(expected_version=version)))

        return executor.run(do, given)
