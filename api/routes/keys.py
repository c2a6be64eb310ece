"""/api/keys: who may come in. For admins only; a token is shown once, when it is issued."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from api.dependencies.idempotency import Executor
from api.dependencies.request import require_write_capacity
from api.entities.routes import EntityId, ServicesDep, Versions
from api.http.auth import Caller, Permission, require_permission
from api.http.bodies import Body, body_of
from api.http.conditions import (
    POSITION,
    await_position,
    on_versions,
    position_header,
    reach,
    versioned,
)
from api.http.openapi import (
    EXAMPLE_ID,
    EXAMPLE_TIME,
    ON_BODY,
    ON_FIELDS,
    ON_READ,
    ON_VERSION,
    ON_WRITE,
    body,
    problems,
    success,
)
from commands.keys import IssuedKey, issue_key
from domain.api_key import ApiKey, Role
from domain.shared.fields import Instant, Name, field_errors
from domain.shared.refusals import InvalidFields
from eventlog.scope import Scope
from readmodels.keys import list_keys
from runtime import codes
from runtime.errors import ApiError
from runtime.patches import JSON_TYPE, without_nulls

PROJECTION = "workspaces"
"""The projection by which keys are known at the door."""

ROUTER = APIRouter(prefix="/api/keys", tags=["keys"])
Admin = Annotated[Caller, Depends(require_permission(Permission.KEYS))]

EXAMPLE = {"name": "Nightly sync", "role": "member"}
EXAMPLE_SHOWN = {
    "id": EXAMPLE_ID,
    **EXAMPLE,
    "memberId": None,
    "expiresAt": None,
    "createdAt": EXAMPLE_TIME,
    "version": 1,
}


class KeyCreate(BaseModel):
    """What a new key is made of."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    name: Name
    role: Role
    member_id: UUID | None = Field(default=None, description="The member who acts by this key.")
    expires_at: Instant | None = None


class ApiKeySummary(KeyCreate):
    """A key, without its secret."""

    id: UUID
    created_at: Instant
    version: int


class NewKey(ApiKeySummary):
    """A key as it is shown once."""

    token: str = Field(examples=["annals_0199c0de00007000800000000000000a_…"])


class ApiKeys(BaseModel):
    """All keys that are not revoked."""

    items: list[ApiKeySummary]


@ROUTER.post(
    "",
    operation_id="issueKey",
    summary="Issue an API key; the token is shown this once",
    status_code=201,
    responses={
        201: success(
            "Issued; the token works at once.",
            NewKey,
            *("ETag", "Location", "Annals-Position"),
            example={**EXAMPLE_SHOWN, "token": "annals_…"},
        ),
        **problems(*ON_BODY, *ON_FIELDS, *ON_WRITE),
    },
    openapi_extra=body({JSON_TYPE: (KeyCreate, EXAMPLE)}),
    dependencies=[Depends(require_write_capacity)],
)
async def issue(
    request: Request,
    services: ServicesDep,
    _caller: Admin,
    given: Annotated[Body, Depends(body_of(JSON_TYPE))],
    executor: Executor,
) -> Response:
    """The key, and the token that is never shown again."""

    def act(scope: Scope) -> Response:
        issued = issue_key(services.commands, scope, _checked(given.fields()))
        return versioned(
            orjson.dumps(_shown(issued)),
            issued.outcome.entity.version,
            201,
            Location=f"/api/keys/{issued.outcome.entity.id}",
            **position_header(issued.outcome),
        )

    return await _until_known(request, await run_in_threadpool(executor.run, act, given))


@ROUTER.get(
    "",
    operation_id="listKeys",
    summary="List the API keys that are not revoked, newest first",
    responses={
        200: success("The keys, without secrets.", ApiKeys, example={"items": [EXAMPLE_SHOWN]}),
        **problems(*ON_READ),
    },
)
async def list_(
    services: ServicesDep,
    caller: Admin,
    _: Annotated[None, Depends(await_position(PROJECTION))],
) -> Response:
    """`{items}`."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        content = await list_keys(connection, caller.workspace_id)
    return Response(b'{"items":' + content + b"}", media_type=JSON_TYPE)


@ROUTER.delete(
    "/{id}",
    operation_id="revokeKey",
    summary="Revoke an API key for good",
    status_code=204,
    responses={
        204: success("Revoked, or revoked already.", None, "Annals-Position"),
        **problems(codes.NOT_FOUND, *ON_VERSION, *ON_WRITE),
    },
    dependencies=[Depends(require_write_capacity)],
)
async def revoke(
    request: Request,
    entity_id: EntityId,
    services: ServicesDep,
    _caller: Admin,
    versions: Versions,
    executor: Executor,
) -> Response:
    """Nothing; other processes refuse the key within a second."""

    def act(scope: Scope) -> Response:
        revoke = partial(services.commands.delete, scope, ApiKey, entity_id)
        outcome = on_versions(versions, lambda version: revoke(expected_version=version))
        return Response(status_code=204, headers=position_header(outcome))

    response = await _until_known(request, await run_in_threadpool(executor.run, act))
    services.authenticator.forget(entity_id)
    return response


async def _until_known(request: Request, response: Response) -> Response:
    """The answer, once the door knows of it: a token shown works, a key revoked does not."""
    with suppress(ApiError):  # it is recorded all the same, and will be known a little later
        await reach(request, (PROJECTION,), int(response.headers[POSITION]))
    return response


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    fields = without_nulls(given)
    try:
        KeyCreate.model_validate(fields)
    except ValidationError as error:
        raise InvalidFields(field_errors(error)) from None
    return fields


def _shown(issued: IssuedKey) -> dict[str, Any]:
    key = issued.outcome.entity
    fields = {name: key.values.get(name) for name in ("name", "role", "memberId", "expiresAt")}
    stamps = {"createdAt": key.created_on, "version": key.version}
    return {"id": key.id, **fields, **stamps, "token": issued.token}
