"""The route that shows the history of an entity.

No postponed annotations here: the framework evaluates those of functions within functions.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from api.dependencies.annotated import EntityId, HistoryReader, ServicesDep
from api.entities.resource import EntityResource
from api.http.conditions import await_position
from api.http.openapi.examples import EXAMPLE_EVENT
from api.http.openapi.records import HISTORY_PAGE
from api.http.openapi.responses import ON_READ, problems, success
from api.http.responses import json_response
from api.http.visibility import Visibility, visibility_of
from domain.shared.refusals import NotFound
from eventlog.reading.positions import POSITION_MAX
from replay.history import HISTORY_PAGE_DEFAULT, HISTORY_PAGE_MAX, entity_history
from runtime import codes


def add_history(router: APIRouter, resource: EntityResource) -> None:
    """Add GET /api/<plural>/{id}/history."""
    kind = resource.kind
    entry = {**EXAMPLE_EVENT, "topic": f"{kind.KIND}.updated", "command": f"change{resource.name}"}

    @router.get(
        "/{id:uuid}/history",
        operation_id=f"get{resource.name}History",
        summary=f"The history of {resource.noun}: who, when, before and after; oldest first",
        responses={
            200: success(
                "Its events.", HISTORY_PAGE, example={"items": [entry], "nextCursor": None}
            ),
            **problems(codes.NOT_FOUND, *ON_READ),
        },
    )
    async def history(
        entity_id: EntityId,
        services: ServicesDep,
        caller: HistoryReader,
        _: Annotated[None, Depends(await_position())],
        cursor: Annotated[
            int, Query(ge=0, le=POSITION_MAX, description="`nextCursor` of the previous page.")
        ] = 0,
        limit: Annotated[
            int, Query(alias="pageSize", ge=1, le=HISTORY_PAGE_MAX)
        ] = HISTORY_PAGE_DEFAULT,
        with_merged: Annotated[
            bool,
            Query(
                alias="includeMerged",
                description="Include the history of the entities that were merged into it.",
            ),
        ] = False,
    ) -> Response:
        async with services.reads.workspace(caller.workspace_id) as connection:
            content = await entity_history(
                connection,
                caller.workspace_id,
                kind.KIND,
                entity_id,
                after=cursor,
                limit=limit,
                with_merged=with_merged,
                with_addresses=visibility_of(caller.role) is Visibility.TRAIL,
            )
        if content is None:
            raise NotFound(kind.KIND, entity_id)
        return json_response(content)
