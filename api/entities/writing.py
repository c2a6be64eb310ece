"""The routes that create, change, delete and restore an entity.

No postponed annotations here: the framework evaluates those of functions within functions.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Response

from api.dependencies.annotated import (
    EntityId,
    Executor,
    JsonBody,
    PatchBody,
    ServicesDep,
    Versions,
)
from api.dependencies.request import require_write_capacity
from api.dependencies.services import Services
from api.entities.resource import EntityResource
from api.http.auth import Caller, require_permission
from api.http.bodies import Body
from api.http.conditions import decision_if_match, with_if_match
from api.http.openapi.bodies import request_body
from api.http.openapi.models import JsonPatch, change_body, create_body, entity_model
from api.http.openapi.responses import (
    ON_BODY,
    ON_FIELDS,
    ON_PATCH,
    ON_VERSION,
    ON_WRITE,
    no_body,
    problems,
    success,
)
from api.http.responses import json_response, no_content
from commands.decisions import CommandOutcome, Decision
from domain.shared.entity import Entity
from domain.shared.refusals import FieldError, InvalidFields
from eventlog.scope import Scope
from replay.as_of import representation
from runtime import codes
from runtime.patches import (
    JSON_PATCH_TYPE,
    JSON_TYPE,
    MERGE_PATCH_TYPE,
    change_of,
    without_nulls,
)

ACCOUNT_ID = "accountId"


def add_create(router: APIRouter, resource: EntityResource) -> None:
    """Add POST /api/<plural>."""
    kind = resource.kind
    created = success(
        "Created.",
        entity_model(kind),
        *("ETag", "Location", "Annals-Position"),
        example=resource.example_response(),
    )
    possible = (*ON_BODY, *ON_FIELDS, *ON_WRITE, *resource.creation_errors)

    @router.post(
        "",
        operation_id=f"create{resource.name}",
        summary=f"Create {resource.noun}",
        status_code=201,
        responses={201: created, **problems(*possible)},
        openapi_extra=request_body({JSON_TYPE: (create_body(kind), resource.example)}),
        dependencies=[Depends(require_write_capacity)],
    )
    async def create(
        services: ServicesDep,
        _caller: Annotated[Caller, Depends(require_permission(resource.write_permission))],
        body: JsonBody,
        executor: Executor,
    ) -> Response:
        def decide(scope: Scope) -> Decision:
            fields, account_id = split_account_id(kind, body.fields())
            creating = services.commands.creating
            return creating(scope.workspace_id, kind, fields, account_id=account_id)

        def respond(outcome: CommandOutcome) -> Response:
            location = f"/api/{kind.PLURAL}/{outcome.entity.id}"
            return entity_response(outcome, 201, Location=location)

        return await executor.commit(decide, respond, body)


def add_change(router: APIRouter, resource: EntityResource) -> None:
    """Add PATCH /api/<plural>/{id}."""
    kind = resource.kind
    name, value = next(iter(resource.example.items()))
    model, merge = change_body(kind), {name: value}
    patch = [{"op": "replace", "path": f"/{name}", "value": value}]
    changed = success(
        "Changed, or unchanged if it already was as requested.",
        entity_model(kind),
        *("ETag", "Annals-Position"),
        example=resource.example_response(),
    )
    possible = (
        *(codes.NOT_FOUND, codes.IS_DELETED, codes.WAS_MERGED, codes.TRANSITION_REFUSED),
        *(*ON_BODY, *ON_FIELDS, *ON_WRITE, *ON_VERSION, *ON_PATCH, *resource.claim_errors),
    )

    @router.patch(
        "/{id:uuid}",
        operation_id=f"change{resource.name}",
        summary=f"Change {resource.noun}, by JSON Patch (RFC 6902) or merge patch (RFC 7396)",
        responses={200: changed, **problems(*possible)},
        openapi_extra=request_body(
            {
                MERGE_PATCH_TYPE: (model, merge),
                JSON_PATCH_TYPE: (JsonPatch, patch),
                JSON_TYPE: (model, merge),
            }
        ),
        dependencies=[Depends(require_write_capacity)],
    )
    async def change(
        entity_id: EntityId,
        services: ServicesDep,
        _caller: Annotated[Caller, Depends(require_permission(resource.write_permission))],
        versions: Versions,
        body: PatchBody,
        executor: Executor,
    ) -> Response:
        def decide(_scope: Scope) -> Decision:
            return patching(services, kind, entity_id, versions, body)

        return await executor.commit(decide, entity_response, body)


def add_delete(router: APIRouter, resource: EntityResource) -> None:
    """Add DELETE /api/<plural>/{id}."""
    kind = resource.kind
    is_account = kind.KIND == "account"
    rules = (codes.OPEN_OPPORTUNITIES,) if is_account else ()
    and_children = " and the entities that belong to it" if is_account else ""
    deleted = no_body("Deleted now or before.", "Annals-Position")

    @router.delete(
        "/{id:uuid}",
        operation_id=f"delete{resource.name}",
        summary=f"Delete {resource.noun}{and_children}; the history stays",
        status_code=204,
        responses={204: deleted, **problems(codes.NOT_FOUND, *ON_VERSION, *ON_WRITE, *rules)},
        dependencies=[Depends(require_write_capacity)],
    )
    async def delete(
        entity_id: EntityId,
        services: ServicesDep,
        _caller: Annotated[Caller, Depends(require_permission(resource.write_permission))],
        versions: Versions,
        executor: Executor,
    ) -> Response:
        def decide(_scope: Scope) -> Decision:
            deleting = partial(services.commands.deleting, kind, entity_id)
            return decision_if_match(versions, lambda version: deleting(expected_version=version))

        return await executor.commit(decide, lambda outcome: no_content(outcome.position))


def add_restore(router: APIRouter, resource: EntityResource) -> None:
    """Add POST /api/<plural>/{id}/restore."""
    kind = resource.kind
    restored = success(
        "Restored now or before.",
        entity_model(kind),
        *("ETag", "Annals-Position"),
        example=resource.example_response(),
    )
    possible = (
        *(codes.NOT_FOUND, codes.WAS_MERGED, *ON_VERSION, *ON_WRITE),
        *resource.creation_errors,
    )
    with_children = " with the entities deleted along with it" if kind.KIND == "account" else ""

    @router.post(
        "/{id:uuid}/restore",
        operation_id=f"restore{resource.name}",
        summary=f"Restore {resource.noun}{with_children}",
        responses={200: restored, **problems(*possible)},
        dependencies=[Depends(require_write_capacity)],
    )
    def restore(
        entity_id: EntityId,
        services: ServicesDep,
        _caller: Annotated[Caller, Depends(require_permission(resource.write_permission))],
        versions: Versions,
        executor: Executor,
    ) -> Response:
        def act(scope: Scope) -> Response:
            restore = partial(services.commands.restore, scope, kind, entity_id)
            return entity_response(
                with_if_match(versions, lambda version: restore(expected_version=version))
            )

        return executor.run(act)


def patching(
    services: Services,
    kind: type[Entity],
    entity_id: UUID,
    versions: list[int] | None,
    body: Body,
) -> Decision:
    """The decision to apply the patch in the body if the entity has one of these versions."""
    change = change_of(kind.FIELDS, body.media_type, body.json())
    revising = partial(services.commands.revising, kind, entity_id, change)
    return decision_if_match(versions, lambda version: revising(expected_version=version))


def entity_response(outcome: CommandOutcome, status: int = 200, **headers: str) -> Response:
    """Return the entity after a write, with its ETag and the position of the write."""
    return json_response(
        representation(outcome.entity),
        status,
        version=outcome.entity.version,
        position=outcome.position,
        headers=headers,
    )


def split_account_id(
    kind: type[Entity], given: Mapping[str, Any]
) -> tuple[dict[str, Any], UUID | None]:
    """Split the body of a new entity into its fields and the id of the account it belongs to.

    Raises `InvalidFields`; if `accountId` is invalid, it also names the other invalid fields.
    """
    known = {*kind.FIELDS.wire_names(), *([ACCOUNT_ID] if kind.BELONGS_TO_ACCOUNT else [])}
    fields = without_nulls(given, known)
    if not kind.BELONGS_TO_ACCOUNT:
        return fields, None
    account = fields.pop(ACCOUNT_ID, None)
    if account is None and not kind.ACCOUNT_REQUIRED:
        return fields, None
    try:
        return fields, UUID(account)
    except (ValueError, TypeError, AttributeError):
        error_type = "missing" if account is None else "uuid_parsing"
        message = "Field required" if account is None else "Input should be a valid UUID"
        error = FieldError(ACCOUNT_ID, error_type, message)
    raise InvalidFields([error, *_field_errors(kind, fields)])


def _field_errors(kind: type[Entity], fields: Mapping[str, Any]) -> list[FieldError]:
    try:
        kind.FIELDS.validated(fields)
    except InvalidFields as invalid:
        return invalid.errors
    return []
