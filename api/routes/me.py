"""/api/me: the caller, by the key of the request."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from api.dependencies.annotated import ServicesDep
from api.http.auth import Caller, authenticate
from api.http.conditions import await_position
from api.http.openapi.examples import EXAMPLE_ID
from api.http.openapi.responses import ON_READ, problems, success
from api.http.responses import json_response
from commands.permissions import PERMISSIONS, Permission
from domain.api_key import Role
from domain.shared.fields import Instant
from readmodels.keys import workspace_detail

ROUTER = APIRouter(prefix="/api/me", tags=["keys"])

EXAMPLE = {
    "keyId": EXAMPLE_ID,
    "name": "Nightly sync",
    "role": "member",
    "permissions": ["history", "read", "write"],
    "expiresAt": None,
    "workspace": {"id": EXAMPLE_ID, "name": "Acme Sales"},
    "member": {"id": EXAMPLE_ID, "name": "Grace Hopper"},
}


class NamedEntity(BaseModel):
    """An id with its name."""

    id: UUID
    name: str | None


class Me(BaseModel):
    """The key of the request, and for whom it acts."""

    model_config = ConfigDict(alias_generator=to_camel)

    key_id: UUID
    name: str
    role: Role
    permissions: list[Permission]
    expires_at: Instant | None
    workspace: NamedEntity | None = Field(description="Null for an operator key.")
    member: NamedEntity | None = Field(description="The member whom the key acts for, if any.")


@ROUTER.get(
    "",
    operation_id="getMe",
    summary="Who the caller is: key, role, permissions, workspace and member",
    responses={200: success("The caller.", Me, example=EXAMPLE), **problems(*ON_READ)},
)
async def get(
    services: ServicesDep,
    caller: Annotated[Caller, Depends(authenticate)],
    _: Annotated[None, Depends(await_position("workspaces"))],
) -> Response:
    """Every valid key may ask, operator keys too."""
    member = caller.actor if caller.actor.type == "member" else None
    return json_response(
        {
            "keyId": caller.key_id,
            "name": caller.name,
            "role": caller.role,
            "permissions": sorted(PERMISSIONS[caller.role]),
            "expiresAt": caller.expires_at,
            "workspace": None if caller.is_operator else await _workspace(services, caller),
            "member": member and {"id": member.id, "name": member.name},
        }
    )


async def _workspace(services: ServicesDep, caller: Caller) -> dict[str, object]:
    """Return id and name of the caller's workspace; the name is null before it is projected."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        found = await workspace_detail(connection, caller.workspace_id)
    name = None if found is None else orjson.loads(found[1])["name"]
    return {"id": caller.workspace_id, "name": name}
