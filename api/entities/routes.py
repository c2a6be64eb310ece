"""The routes that every kind of entity has, made from the aggregate and from its list.

No postponed annotations here: the framework evaluates those of functions within functions.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import orjson
from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from api.dependencies.idempotency import OnceOf
from api.dependencies.request import room_for_writes, services_of
from api.dependencies.services import Services
from api.entities.shape import Shape
from api.exports.routes import add_export
from api.http.auth import Caller, Permission, require_permission
from api.http.bodies import Body, body_of
from api.http.conditions import (
    POSITION_MAX,
    await_position,
    if_match,
    on_versions,
    position_header,
    versioned,
)
from api.http.openapi import (
    EXAMPLE_ID,
    EXAMPLE_TIME,
    ON_BODY,
    ON_FIELDS,
    ON_PATCH,
    ON_READ,
    ON_VERSION,
    ON_WRITE,
    body,
    change_body,
    create_body,
    entity_model,
    item_model,
    page_model,
    problems,
    success,
)
from api.http.parameters import (
    ListParameters,
    When,
    invalid_parameter,
    list_parameters,
    page_size,
    parse_time,
    parse_version_or_time,
    query_of,
)
from api.http.visibility import Visibility, sight_of
from commands.entities import CommandOutcome
from domain.shared.entity import Entity
from domain.shared.refusals import FieldError, InvalidFields, NotFound
from eventlog.reading.merging import merged_into
from eventlog.scope import Scope
from readmodels.details import detail
from readmodels.lists import LISTS, ListQuery, list_page
from readmodels.pool import AsyncConnection
from replay.as_of import AsOfQuery, entity_as_of, list_as_of, representation
from replay.history import HISTORY_PAGE_DEFAULT, HISTORY_PAGE_MAX, entity_history
from runtime import codes
from runtime.errors import ApiError
from runtime.patches import (
    JSON_PATCH_TYPE,
    JSON_TYPE,
    MERGE_PATCH_TYPE,
    PATCH_TYPES,
    change_of,
    without_nulls,
)

ACCOUNT_ID = "accountId"

EntityId = Annotated[UUID, Path(alias="id", examples=[EXAMPLE_ID])]
ServicesOf = Annotated[Services, Depends(services_of)]
Versions = Annotated[list[int] | None, Depends(if_match)]


def entity_routes(
    kind: type[Entity],
    *,
    example: Mapping[str, Any],
    reads: tuple[str, ...] = (),
    write: Permission = Permission.WRITE,
) -> APIRouter:
    """All routes of one kind, under /api/<plural>.

    `reads` are projections that lists of this kind show besides its own and the members' names.
    """
    spec = LISTS[kind.PLURAL]
    # The past is found through the audit trail, names through members.
    behind = tuple(sorted({kind.PLURAL, "members", "audit", *reads}))
    shape = Shape(kind, example, behind, write, spec)
    router = APIRouter(prefix=f"/api/{kind.PLURAL}", tags=[kind.PLURAL])
    _add_create(router, shape)
    _add_list(router, shape)
    add_export(router, kind, spec, behind)  # before a path that takes any word for an id
    for add in (_add_get, _add_history, _add_change, _add_delete):
        add(router, shape)
    _add_restore(router, shape)
    return router


def _add_create(router: APIRouter, shape: Shape) -> None:
    created = success(
        "Created.",
        entity_model(shape.kind),
        *("ETag", "Location", "Annals-Position"),
        example=shape.shown(),
    )

    @router.post(
        "",
        operation_id=f"create{shape.name}",
        summary=f"Create {shape.a_name}",
        status_code=201,
        responses={201: created, **problems(*ON_BODY, *ON_FIELDS, *ON_WRITE, *shape.links)},
        openapi_extra=body({JSON_TYPE: (create_body(shape.kind), shape.example)}),
        dependencies=[Depends(room_for_writes)],
    )
    def create(
        services: ServicesOf,
        _caller: Annotated[Caller, Depends(require_permission(shape.write))],
        given: Annotated[Body, Depends(body_of(JSON_TYPE))],
        once: OnceOf,
    ) -> Response:
        def act(scope: Scope) -> Response:
            fields, account_id = fields_and_account(shape.kind, given.fields())
            outcome = services.commands.create(scope, shape.kind, fields, account_id=account_id)
            location = f"/api/{shape.kind.PLURAL}/{outcome.entity.id}"
            return written(outcome, status=201, Location=location)

        return once(act, given)


def _add_list(router: APIRouter, shape: Shape) -> None:
    model = page_model(
        item_model(entity_model(shape.kind), shape.kind, shape.spec), shape.kind, shape.spec
    )
    pagination = {"page": 1, "pageSize": 50, "totalItems": 1, "totalPages": 1, "nextCursor": None}
    example = {"items": [shape.shown()], "pagination": pagination}
    parameters = query_of(list_parameters(shape.kind, shape.spec))
    possible = problems(codes.INVALID_CURSOR, codes.TOO_MUCH_HISTORY, *ON_READ)

    @router.get(
        "",
        operation_id=f"list{shape.names}",
        summary=f"List {shape.kind.PLURAL}",
        responses={200: success("One page.", model, example=example), **possible},
    )
    async def list_(
        request: Request,
        services: ServicesOf,
        caller: Annotated[Caller, Depends(require_permission(Permission.READ))],
        asked: Annotated[ListParameters, Depends(parameters)],
        _: Annotated[None, Depends(await_position(*shape.reads))],
    ) -> Response:
        size = page_size(request, asked.page_size)
        if asked.as_of is not None:
            caller.require(Permission.HISTORY)
            return await _list_as_of(services, caller, shape, asked, size)
        query = ListQuery(caller.workspace_id, **_query(asked, size), cursor=asked.cursor)
        return Response(await _list_now(services, shape, query), media_type=JSON_TYPE)


def _add_get(router: APIRouter, shape: Shape) -> None:
    model = item_model(entity_model(shape.kind), shape.kind, shape.spec)
    found = success("There it is.", model, "ETag", example=shape.shown())

    @router.get(
        "/{id}",
        operation_id=f"get{shape.name}",
        summary=f"Get {shape.a_name}",
        responses={200: found, **problems(codes.NOT_FOUND, codes.MERGED_AWAY, *ON_READ)},
    )
    async def get(
        entity_id: EntityId,
        services: ServicesOf,
        caller: Annotated[Caller, Depends(require_permission(Permission.READ))],
        _: Annotated[None, Depends(await_position(*shape.reads))],
        as_of: Annotated[
            When | None,
            Query(alias="asOf", description="As of a version (3), a time, or the end of a day."),
        ] = None,
    ) -> Response:
        if as_of is not None:
            caller.require(Permission.HISTORY)
            return await _entity_as_of(services, caller, shape.kind, entity_id, as_of)
        async with services.reads.workspace(caller.workspace_id) as connection:
            found = await detail(connection, shape.kind.PLURAL, caller.workspace_id, entity_id)
            if found is None:
                await _require_not_merged(connection, caller, shape.kind, entity_id)
        if found is None:
            raise NotFound(shape.kind.KIND, entity_id)
        version, content = found
        return versioned(content, version)


def _add_history(router: APIRouter, shape: Shape) -> None:
    change = {"field": "nextAction", "before": None, "after": "Send the term sheet"}
    entry = {
        "position": 7,
        "version": 2,
        "topic": f"{shape.kind.KIND}.updated",
        "action": "update",
        "actor": {"type": "api_key", "id": EXAMPLE_ID, "name": "Nightly sync"},
        "occurredAt": EXAMPLE_TIME,
        "recordedAt": EXAMPLE_TIME,
        "changes": [change],
    }
    found = success("Its events.", example={"items": [entry], "nextCursor": None})

    @router.get(
        "/{id}/history",
        operation_id=f"get{shape.name}History",
        summary=f"What happened to {shape.a_name}: who, when, before and after; oldest first",
        responses={200: found, **problems(codes.NOT_FOUND, *ON_READ)},
    )
    async def history(
        entity_id: EntityId,
        services: ServicesOf,
        caller: Annotated[Caller, Depends(require_permission(Permission.HISTORY))],
        _: Annotated[None, Depends(await_position())],
        cursor: Annotated[int, Query(ge=0, le=POSITION_MAX, description="Go on after this.")] = 0,
        limit: Annotated[
            int, Query(alias="pageSize", ge=1, le=HISTORY_PAGE_MAX)
        ] = HISTORY_PAGE_DEFAULT,
        with_merged: Annotated[
            bool,
            Query(alias="includeMerged", description="With that of what was merged into it."),
        ] = False,
    ) -> Response:
        async with services.reads.workspace(caller.workspace_id) as connection:
            content = await entity_history(
                connection,
                caller.workspace_id,
                shape.kind.KIND,
                entity_id,
                after=cursor,
                limit=limit,
                with_merged=with_merged,
                with_addresses=sight_of(caller.role) is Visibility.TRAIL,
            )
        if content is None:
            raise NotFound(shape.kind.KIND, entity_id)
        return Response(content, media_type=JSON_TYPE)


def _add_change(router: APIRouter, shape: Shape) -> None:
    name, value = next(iter(shape.example.items()))
    model, merge = change_body(shape.kind), {name: value}
    patch = [{"op": "replace", "path": f"/{name}", "value": value}]
    bodies = {
        MERGE_PATCH_TYPE: (model, merge),
        JSON_PATCH_TYPE: (None, patch),
        JSON_TYPE: (model, merge),
    }
    changed = success(
        "Changed, or as asked already.",
        entity_model(shape.kind),
        *("ETag", "Annals-Position"),
        example=shape.shown(),
    )
    possible = (
        codes.NOT_FOUND,
        codes.IS_DELETED,
        codes.WAS_MERGED,
        codes.TRANSITION_REFUSED,
        *ON_VERSION,
        *ON_PATCH,
    )

    @router.patch(
        "/{id}",
        operation_id=f"change{shape.name}",
        summary=f"Change {shape.a_name}, by JSON Patch (RFC 6902) or merge patch (RFC 7396)",
        responses={
            200: changed,
            **problems(*ON_BODY, *ON_FIELDS, *ON_WRITE, *possible, *shape.claims),
        },
        openapi_extra=body(bodies),
        dependencies=[Depends(room_for_writes)],
    )
    def change(
        entity_id: EntityId,
        services: ServicesOf,
        _caller: Annotated[Caller, Depends(require_permission(shape.write))],
        versions: Versions,
        given: Annotated[Body, Depends(body_of(*PATCH_TYPES))],
        once: OnceOf,
    ) -> Response:
        def act(scope: Scope) -> Response:
            return changed_by_patch(services, scope, shape.kind, entity_id, versions, given)

        return once(act, given)


def _add_delete(router: APIRouter, shape: Shape) -> None:
    gone = success("Deleted, or deleted already.", None, "Annals-Position")
    is_account = shape.kind.KIND == "account"
    rules = (codes.OPEN_OPPORTUNITIES,) if is_account else ()
    with_what = " and what hangs on it" if is_account else ""

    @router.delete(
        "/{id}",
        operation_id=f"delete{shape.name}",
        summary=f"Delete {shape.a_name}{with_what}; its history stays",
        status_code=204,
        responses={204: gone, **problems(codes.NOT_FOUND, *ON_VERSION, *ON_WRITE, *rules)},
        dependencies=[Depends(room_for_writes)],
    )
    def delete(
        entity_id: EntityId,
        services: ServicesOf,
        _caller: Annotated[Caller, Depends(require_permission(shape.write))],
        versions: Versions,
        once: OnceOf,
    ) -> Response:
        def act(scope: Scope) -> Response:
            delete = partial(services.commands.delete, scope, shape.kind, entity_id)
            outcome = on_versions(versions, lambda version: delete(expected_version=version))
            return Response(status_code=204, headers=position_header(outcome))

        return once(act)


def _add_restore(router: APIRouter, shape: Shape) -> None:
    restored = success(
        "There again, or there already.",
        entity_model(shape.kind),
        *("ETag", "Annals-Position"),
        example=shape.shown(),
    )
    links = [codes.ACCOUNT_UNAVAILABLE] if shape.kind.BELONGS_TO_ACCOUNT else []
    links += [codes.WAS_MERGED] if hasattr(shape.kind, "Merged") else []
    with_what = " with what was deleted with it" if shape.kind.KIND == "account" else ""

    @router.post(
        "/{id}/restore",
        operation_id=f"restore{shape.name}",
        summary=f"Bring back {shape.a_name}{with_what}",
        responses={
            200: restored,
            **problems(codes.NOT_FOUND, *ON_VERSION, *ON_WRITE, *shape.links),
        },
        dependencies=[Depends(room_for_writes)],
    )
    def restore(
        entity_id: EntityId,
        services: ServicesOf,
        _caller: Annotated[Caller, Depends(require_permission(shape.write))],
        versions: Versions,
        once: OnceOf,
    ) -> Response:
        def act(scope: Scope) -> Response:
            restore = partial(services.commands.restore, scope, shape.kind, entity_id)
            return written(on_versions(versions, lambda version: restore(expected_version=version)))

        return once(act)


def changed_by_patch(
    services: Services,
    scope: Scope,
    kind: type[Entity],
    entity_id: UUID,
    versions: list[int] | None,
    given: Body,
) -> Response:
    """Apply the patch in the body, on one of these versions, and answer with what came of it."""
    change = change_of(kind.FIELDS, given.media_type, given.json())
    act = partial(services.commands.revise, scope, kind, entity_id, change)
    return written(on_versions(versions, lambda version: act(expected_version=version)))


def written(outcome: CommandOutcome, *, status: int = 200, **headers: str) -> Response:
    """The entity after a write, with its ETag and the position reached."""
    content = orjson.dumps(representation(outcome.entity))
    return versioned(content, outcome.entity.version, status, **position_header(outcome), **headers)


def fields_and_account(
    kind: type[Entity], given: Mapping[str, Any]
) -> tuple[dict[str, Any], UUID | None]:
    """The fields of a new thing and the account that it hangs on.

    Raises `InvalidFields`, which names the faults of the fields too where the account is at fault.
    """
    fields = without_nulls(given)
    if not kind.BELONGS_TO_ACCOUNT:
        return fields, None
    account = fields.pop(ACCOUNT_ID, None)
    if account is None and not kind.ACCOUNT_REQUIRED:
        return fields, None
    try:
        return fields, UUID(account)
    except (ValueError, TypeError, AttributeError):
        kind_of_fault = "missing" if account is None else "uuid_parsing"
        message = "Field required" if account is None else "Input should be a valid UUID"
        fault = FieldError(ACCOUNT_ID, kind_of_fault, message)
    raise InvalidFields([fault, *_faults(kind, fields)])


def _faults(kind: type[Entity], fields: Mapping[str, Any]) -> list[FieldError]:
    try:
        kind.FIELDS.values(fields)
    except InvalidFields as invalid:
        return invalid.errors
    return []


def _query(asked: ListParameters, size: int) -> dict[str, Any]:
    return {
        "filters": asked.filters(),
        "search": asked.search or None,
        "sort_by": asked.sort_by,
        "descending": asked.sort_order == "desc",
        "page": asked.page,
        "page_size": size,
        "include_contacts": getattr(asked, "include_contacts", False),
        "include_stats": getattr(asked, "include_stats", False),
    }


async def _require_not_merged(
    connection: AsyncConnection, caller: Caller, kind: type[Entity], entity_id: UUID
) -> None:
    """Raises 410 (E5050) where it is another one by now."""
    merged = await merged_into(connection, caller.workspace_id, kind.KIND, entity_id)
    if merged is not None:
        direct, last = map(str, merged)
        raise ApiError(codes.MERGED_AWAY, mergedInto=direct, survivorId=last)


async def _list_now(services: Services, shape: Shape, query: ListQuery) -> bytes:
    async with services.reads.workspace(query.workspace_id) as connection:
        return await list_page(connection, shape.spec, query)


async def _list_as_of(
    services: Services, caller: Caller, shape: Shape, asked: ListParameters, size: int
) -> Response:
    if asked.cursor is not None:
        raise invalid_parameter("cursor", "lists as of a time are walked by page")
    at = parse_time(asked.as_of or "")
    query = AsOfQuery(caller.workspace_id, shape.kind.PLURAL, at, **_query(asked, size))
    fold = partial(list_as_of, services.history, query)
    content = await to_thread.run_sync(fold, limiter=services.history_limit)
    return Response(content, media_type=JSON_TYPE)


async def _entity_as_of(
    services: Services, caller: Caller, kind: type[Entity], entity_id: UUID, as_of: str
) -> Response:
    point = parse_version_or_time(as_of)
    version, at = (point, None) if isinstance(point, int) else (None, point)
    scope = Scope(caller.workspace_id)
    load = partial(entity_as_of, services.log, scope, kind, entity_id, version=version, at=at)
    found = await to_thread.run_sync(load)
    if found is None or (version is not None and found["version"] != version):
        raise NotFound(kind.KIND, entity_id)
    return versioned(orjson.dumps(found), found["version"])
