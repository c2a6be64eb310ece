"""/api/workspace: the tenant that the key belongs to."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from pydantic import create_model

from api.dependencies.annotated import (
    Executor,
    PatchBody,
    Reader,
    ServicesDep,
    Versions,
    WorkspaceAdmin,
)
from api.dependencies.request import require_write_capacity
from api.entities.writing import entity_response, patching
from api.http.conditions import await_position
from api.http.openapi.bodies import request_body
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.models import JsonPatch, change_body, entity_model
from api.http.openapi.responses import (
    ON_BODY,
    ON_FIELDS,
    ON_PATCH,
    ON_READ,
    ON_VERSION,
    ON_WRITE,
    problems,
    success,
)
from api.http.responses import json_response
from commands.decisions import Decision
from domain.shared.refusals import NotFound
from domain.workspace import Workspace
from eventlog.scope import Scope
from readmodels.keys import workspace_detail
from runtime import codes
from runtime.patches import JSON_PATCH_TYPE, JSON_TYPE, MERGE_PATCH_TYPE

ROUTER = APIRouter(prefix="/api/workspace", tags=["workspace"])

EXAMPLE = {"name": "Acme Sales"}
EXAMPLE_RESPONSE = {
    "id": EXAMPLE_ID,
    **EXAMPLE,
    "customFields": {},
    "createdAt": EXAMPLE_TIME,
    "updatedAt": EXAMPLE_TIME,
    "version": 1,
}
DETAIL = create_model(
    "WorkspaceDetail",
    __base__=entity_model(Workspace),
    __doc__="The workspace, as reads show it.",
    assigned_to=(UUID | None, None),
)
CHANGE = change_body(Workspace)
PATCH = [{"op": "replace", "path": "/name", "value": "Acme Sales"}]


@ROUTER.get(
    "",
    operation_id="getWorkspace",
    summary="Get the workspace that the key belongs to",
    responses={
        200: success("The workspace.", DETAIL, "ETag", example=EXAMPLE_RESPONSE),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def get(
    services: ServicesDep,
    caller: Reader,
    _: Annotated[None, Depends(await_position("workspaces"))],
) -> Response:
    """The workspace with its ETag."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        found = await workspace_detail(connection, caller.workspace_id)
    if found is None:
        raise NotFound(Workspace.KIND, caller.workspace_id)
    version, content = found
    return json_response(content, version=version)


@ROUTER.patch(
    "",
    operation_id="changeWorkspace",
    summary="Change the workspace, by JSON Patch (RFC 6902) or merge patch (RFC 7396)",
    responses={
        200: success(
            "Changed, or unchanged if it already was as requested.",
            entity_model(Workspace),
            *("ETag", "Annals-Position"),
            example={**EXAMPLE_RESPONSE, "assignedTo": None},
        ),
        **problems(codes.NOT_FOUND, *ON_BODY, *ON_FIELDS, *ON_PATCH, *ON_VERSION, *ON_WRITE),
    },
    openapi_extra=request_body(
        {
            MERGE_PATCH_TYPE: (CHANGE, EXAMPLE),
            JSON_PATCH_TYPE: (JsonPatch, PATCH),
            JSON_TYPE: (CHANGE, EXAMPLE),
        }
    ),
    dependencies=[Depends(require_write_capacity)],
)
async def change(
    services: ServicesDep,
    caller: WorkspaceAdmin,
    versions: Versions,
    body: PatchBody,
    executor: Executor,
) -> Response:
    """The workspace after the change."""

    def decide(_scope: Scope) -> Decision:
        return patching(services, Workspace, caller.workspace_id, versions, body)

    return await executor.commit(decide, entity_response, body)
