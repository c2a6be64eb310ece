"""/api/keys: the API keys of the workspace. For admins only; a token is shown only once."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from api.dependencies.annotated import (
    EntityId,
    Executor,
    JsonBody,
    KeyAdmin,
    ServicesDep,
    Versions,
)
from api.dependencies.request import require_write_capacity
from api.http.bodies import RequestModel, validate, wire_names
from api.http.conditions import await_position, wait_for_projections, with_if_match
from api.http.openapi.bodies import request_body
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.records import ResponseModel
from api.http.openapi.responses import (
    ON_BODY,
    ON_FIELDS,
    ON_READ,
    ON_VERSION,
    ON_WRITE,
    no_body,
    problems,
    success,
)
from api.http.parameters import OneOf
from api.http.responses import POSITION, json_response, no_content
from commands.keys import IssuedKey, issue_key
from domain.api_key import ApiKey, Role
from domain.shared.fields import Instant, Name
from eventlog.scope import Scope
from readmodels.keys import list_keys
from runtime import codes
from runtime.errors import ApiError
from runtime.patches import JSON_TYPE, without_nulls

PROJECTION = "workspaces"
"""The projection from which keys are authenticated."""

ROUTER = APIRouter(prefix="/api/keys", tags=["keys"])

EXAMPLE = {"name": "Nightly sync", "role": "member"}
EXAMPLE_RESPONSE = {
    "id": EXAMPLE_ID,
    **EXAMPLE,
    "memberId": None,
    "expiresAt": None,
    "createdAt": EXAMPLE_TIME,
    "version": 1,
}


TenantRole = Annotated[str, OneOf(tuple(each.value for each in Role if each is not Role.OPERATOR))]
"""The roles that an admin may give; the command line issues operator keys."""


class ApiKeyCreate(RequestModel):
    """The fields of a new key."""

    name: Name
    role: TenantRole
    member_id: UUID | None = Field(default=None, description="The member whom this key acts for.")
    expires_at: Instant | None = None


class ApiKeySummary(ResponseModel):
    """A key, without its secret."""

    id: UUID
    name: str
    role: TenantRole
    member_id: UUID | None
    expires_at: datetime | None
    created_at: datetime
    version: int


class IssuedApiKey(ApiKeySummary):
    """A key with its token, as it is shown once."""

    token: str = Field(examples=["annals_0199c0de00007000800000000000000a_…"])


class ApiKeys(BaseModel):
    """All keys that are not revoked."""

    items: list[ApiKeySummary]


@ROUTER.post(
    "",
    operation_id="issueKey",
    summary="Issue an API key; its token is shown only in this response",
    status_code=201,
    responses={
        201: success(
            "Issued; the token is valid immediately.",
            IssuedApiKey,
            *("ETag", "Location", "Annals-Position"),
            example={**EXAMPLE_RESPONSE, "token": "annals_…"},
        ),
        **problems(*ON_BODY, *ON_FIELDS, *ON_WRITE),
    },
    openapi_extra=request_body({JSON_TYPE: (ApiKeyCreate, EXAMPLE)}),
    dependencies=[Depends(require_write_capacity)],
)
async def issue(
    request: Request,
    services: ServicesDep,
    _caller: KeyAdmin,
    body: JsonBody,
    executor: Executor,
) -> Response:
    """The key with its token, which is never shown again."""

    def act(scope: Scope) -> Response:
        fields = without_nulls(body.fields(), wire_names(ApiKeyCreate))
        validate(ApiKeyCreate, fields)
        issued = issue_key(services.commands, scope, fields)
        key = issued.outcome.entity
        return json_response(
            _issued_as_json(issued),
            201,
            version=key.version,
            position=issued.outcome.position,
            headers={"Location": f"/api/keys/{key.id}"},
        )

    response = await run_in_threadpool(executor.run, act, body)
    response = await _respond_when_projected(request, response)
    # A request that guessed the id before it existed made it an unknown one.
    services.authenticator.forget(UUID(response.headers["Location"].rpartition("/")[2]))
    return response


@ROUTER.get(
    "",
    operation_id="listKeys",
    summary="List the API keys that are not revoked, newest first",
    responses={
        200: success("The keys, without secrets.", ApiKeys, example={"items": [EXAMPLE_RESPONSE]}),
        **problems(*ON_READ),
    },
)
async def list_(
    services: ServicesDep,
    caller: KeyAdmin,
    _: Annotated[None, Depends(await_position(PROJECTION))],
) -> Response:
    """`{items}`."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        content = await list_keys(connection, caller.workspace_id)
    return json_response(b'{"items":' + content + b"}")


@ROUTER.delete(
    "/{id:uuid}",
    operation_id="revokeKey",
    summary="Revoke an API key permanently",
    status_code=204,
    responses={
        204: no_body("Revoked now or before.", "Annals-Position"),
        **problems(codes.NOT_FOUND, *ON_VERSION, *ON_WRITE),
    },
    dependencies=[Depends(require_write_capacity)],
)
async def revoke(
    request: Request,
    entity_id: EntityId,
    services: ServicesDep,
    _caller: KeyAdmin,
    versions: Versions,
    executor: Executor,
) -> Response:
    """Every process refuses the key within a second."""

    def act(scope: Scope) -> Response:
        revoke = partial(services.commands.delete, scope, ApiKey, entity_id)
        outcome = with_if_match(versions, lambda version: revoke(expected_version=version))
        return no_content(outcome.position)

    response = await _respond_when_projected(request, await run_in_threadpool(executor.run, act))
    services.authenticator.forget(entity_id)
    return response


async def _respond_when_projected(request: Request, response: Response) -> Response:
    """Return the response once authentication sees the change, if it does so within the limit."""
    with suppress(ApiError):  # the change is recorded; it only takes effect a little later
        await wait_for_projections(request, (PROJECTION,), int(response.headers[POSITION]))
    return response


def _issued_as_json(issued: IssuedKey) -> dict[str, Any]:
    key = issued.outcome.entity
    fields = {name: key.values.get(name) for name in ("name", "role", "memberId", "expiresAt")}
    stamps = {"createdAt": key.created_on, "version": key.version}
    return {"id": key.id, **fields, **stamps, "token": issued.token}
