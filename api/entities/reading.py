"""Lists and single entities, current or as of a time.

No postponed annotations here: the framework evaluates those of functions within functions.
"""

from functools import partial
from typing import Annotated, Any
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response

from api.dependencies.annotated import EntityId, Reader, ServicesDep
from api.dependencies.services import Services
from api.entities.resource import EntityResource
from api.http.auth import Caller
from api.http.conditions import await_position
from api.http.openapi.models import entity_model, item_model, page_model
from api.http.openapi.responses import ON_READ, problems, success
from api.http.parameters import (
    ListParameters,
    VersionOrTimeText,
    invalid_parameter,
    list_parameters,
    page_size,
    parse_query,
    parse_time,
    parse_version_or_time,
)
from api.http.representation.links import page_links
from api.http.responses import json_response
from commands.permissions import Permission
from domain.shared.entity import Entity
from domain.shared.refusals import NotFound
from eventlog.reading.merging import merged_into
from eventlog.scope import Scope
from readmodels.details import detail
from readmodels.lists import ListQuery, list_page
from replay.as_of import AsOfQuery, entity_as_of, list_as_of
from runtime import codes
from runtime.errors import ApiError


def add_list(router: APIRouter, resource: EntityResource) -> None:
    """Add GET /api/<plural>."""
    kind, spec = resource.kind, resource.spec
    model = page_model(item_model(entity_model(kind), kind, spec), kind, spec)
    pagination = {
        "page": 1,
        "pageSize": 50,
        "totalItems": 1,
        "totalIsExact": True,
        "totalPages": 1,
        "nextCursor": None,
    }
    example = {"items": [resource.example_item()], "pagination": pagination}
    query_model = list_parameters(kind, spec)

    @router.get(
        "",
        operation_id=f"list{resource.plural_name}",
        summary=f"List {kind.PLURAL}",
        responses={
            200: success("One page.", model, example=example),
            **problems(codes.INVALID_CURSOR, codes.TOO_MUCH_HISTORY, *ON_READ),
        },
    )
    async def list_(
        request: Request,
        services: ServicesDep,
        caller: Reader,
        parameters: Annotated[ListParameters, Depends(parse_query(query_model))],
        _: Annotated[None, Depends(await_position(*resource.reads))],
    ) -> Response:
        options = _list_options(parameters, page_size(request, parameters.page_size))
        if parameters.as_of is not None:
            caller.require(Permission.HISTORY)
            if parameters.cursor is not None:
                raise invalid_parameter("cursor", "lists as of a time are paged by `page`")
            at = parse_time(parameters.as_of)
            query_as_of = AsOfQuery(caller.workspace_id, kind.PLURAL, at, **options)
            return json_response(await _list_as_of(services, query_as_of))
        query = ListQuery(caller.workspace_id, **options, cursor=parameters.cursor)
        async with services.reads.plain() as connection:
            found = await list_page(connection, spec, query)
        link = page_links(
            request.scope,
            page=parameters.page,
            total_pages=found.total_pages,
            total_is_exact=found.total_is_exact,
            next_cursor=found.next_cursor,
            by_cursor=parameters.cursor is not None,
        )
        return json_response(found.content, headers={"Link": link} if link else None)


def add_get(router: APIRouter, resource: EntityResource) -> None:
    """Add GET /api/<plural>/{id}."""
    kind = resource.kind
    model = item_model(entity_model(kind), kind, resource.spec)

    @router.get(
        "/{id:uuid}",
        operation_id=f"get{resource.name}",
        summary=f"Get {resource.noun}",
        responses={
            200: success("The entity.", model, "ETag", example=resource.example_item()),
            **problems(codes.NOT_FOUND, codes.MERGED_AWAY, *ON_READ),
        },
    )
    async def get(
        entity_id: EntityId,
        services: ServicesDep,
        caller: Reader,
        _: Annotated[None, Depends(await_position(*resource.reads))],
        as_of: Annotated[
            VersionOrTimeText | None,
            Query(alias="asOf", description="As of a version (3), a time, or the end of a day."),
        ] = None,
    ) -> Response:
        if as_of is not None:
            caller.require(Permission.HISTORY)
            return await _entity_as_of(services, caller, kind, entity_id, as_of)
        async with services.reads.plain() as connection:
            found = await detail(connection, kind.PLURAL, caller.workspace_id, entity_id)
        if found is None:
            await _require_not_merged(services, caller, kind, entity_id)
            raise NotFound(kind.KIND, entity_id)
        version, content = found
        return json_response(content, version=version)


def _list_options(parameters: ListParameters, size: int) -> dict[str, Any]:
    return {
        "filters": parameters.filters(),
        "search": parameters.search or None,
        "sort_by": parameters.sort_by,
        "descending": parameters.sort_order == "desc",
        "page": parameters.page,
        "page_size": size,
        "include_contacts": getattr(parameters, "include_contacts", False),
        "include_stats": getattr(parameters, "include_stats", False),
    }


async def _list_as_of(services: Services, query: AsOfQuery) -> bytes:
    fold = partial(list_as_of, services.history, query)
    return await to_thread.run_sync(fold, limiter=services.history_limit)


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
    return json_response(found, version=found["version"])


async def _require_not_merged(
    services: Services, caller: Caller, kind: type[Entity], entity_id: UUID
) -> None:
    """Raise 410 (E5050) if the entity was merged into another one."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        merged = await merged_into(connection, caller.workspace_id, kind.KIND, entity_id)
    if merged is not None:
        direct, survivor = map(str, merged)
        raise ApiError(codes.MERGED_AWAY, mergedInto=direct, survivorId=survivor)
