"""/api/workspace: the tenant that the key belongs to."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.dependencies.idempotency import Executor
from api.dependencies.request import require_write_capacity
from api.entities.routes import ServicesDep, Versions, changed_by_patch
from api.http.auth import Caller, Permission, require_permission
from api.http.bodies import Body, body_of
from api.http.conditions import await_position, versioned
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
    entity_model,
    problems,
    success,
)
from domain.shared.refusals import NotFound
from domain.workspace import Workspace
from eventlog.scope import Scope
from readmodels.keys import workspace_detail
from runtime import codes
from runtime.patches import JSON_PATCH_TYPE, JSON_TYPE, MERGE_PATCH_TYPE, PATCH_TYPES

ROUTER = APIRouter(prefix="/api/workspace", tags=["workspace"])

EXAMPLE = {"name": "Acme Sales"}
EXAMPLE_SHOWN = {
    "id": EXAMPLE_ID,
    **EXAMPLE,
    "customFields": {},
    "createdAt": EXAMPLE_TIME,
    "updatedAt": EXAMPLE_TIME,
    "version": 1,
}
CHANGE = change_body(Workspace)
PATCH = [{"op": "replace", "path": "/name", "value": "Acme Sales"}]


@ROUTER.get(
    "",
    operation_id="getWorkspace",
    summary="Get the workspace that the key belongs to",
    responses={
        200: success("The workspace.", entity_model(Workspace), "ETag", example=EXAMPLE_SHOWN),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def get(
    services: ServicesDep,
    caller: Annotated[Caller, Depends(require_permission(Permission.READ))],
    _: Annotated[None, Depends(await_position("workspaces"))],
) -> Response:
    """The workspace with its ETag."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        found = await workspace_detail(connection, caller.workspace_id)
    if found is None:
        raise NotFound(Workspace.KIND, caller.workspace_id)
    version, content = found
    return versioned(content, version)


@ROUTER.patch(
    "",
    operation_id="changeWorkspace",
    summary="Change the workspace, by JSON Patch (RFC 6902) or merge patch (RFC 7396)",
    responses={
        200: success(
            "Changed, or as asked already.",
            entity_model(Workspace),
            *("ETag", "Annals-Position"),
            example=EXAMPLE_SHOWN,
        ),
        **problems(codes.NOT_FOUND, *ON_BODY, *ON_FIELDS, *ON_PATCH, *ON_VERSION, *ON_WRITE),
    },
    openapi_extra=body(
        {
            MERGE_PATCH_TYPE: (CHANGE, EXAMPLE),
            JSON_PATCH_TYPE: (None, PATCH),
            JSON_TYPE: (CHANGE, EXAMPLE),
        }
    ),
    dependencies=[Depends(require_write_capacity)],
)
def change(
    services: ServicesDep,
    caller: Annotated[Caller, Depends(require_permission(Permission.WORKSPACE))],
    versions: Versions,
    given: Annotated[Body, Depends(body_of(*PATCH_TYPES))],
    executor: Executor,
) -> Response:
    """The workspace as it is now."""

    def act(scope: Scope) -> Response:
        workspace_id = caller.workspace_id
        return changed_by_patch(services, scope, Workspace, workspace_id, versions, given)

    return executor.run(act, given)
