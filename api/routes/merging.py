"""POST /api/accounts/{id}/merge and /api/contacts/{id}/merge: two become one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from api.dependencies.idempotency import Executor
from api.dependencies.request import require_write_capacity
from api.entities.routes import EntityId, ServicesDep, Versions
from api.http.auth import Caller, Permission, require_permission
from api.http.bodies import Body, body_of, checked
from api.http.conditions import on_versions, position_header, versioned
from api.http.openapi import (
    EXAMPLE_ID,
    EXAMPLE_TIME,
    ON_BODY,
    ON_FIELDS,
    ON_VERSION,
    ON_WRITE,
    body,
    problems,
    success,
)
from commands.merging import MergeOutcome
from domain.account import Account
from domain.contact import Contact
from domain.shared.merging import MergeableEntity
from eventlog.scope import Scope
from replay.as_of import representation
from runtime import codes
from runtime.patches import JSON_TYPE

CHOICES_MAX = 200
CHOICE_NAME_MAX_CHARS = 200
OTHER_ID = "0199c0de-0000-7000-8000-000000000002"

ROUTER = APIRouter(tags=["merge"])

POSSIBLE = (
    codes.NOT_FOUND,
    codes.IS_DELETED,
    codes.WAS_MERGED,
    codes.MERGE_REFUSED,
    codes.TOO_MUCH_TO_MERGE,
    codes.TRANSITION_REFUSED,
    *ON_VERSION,
)

FieldChoice = Annotated[str, Field(max_length=10)] | dict[str, Any]
FieldName = Annotated[str, Field(min_length=1, max_length=CHOICE_NAME_MAX_CHARS)]


class MergeRequest(BaseModel):
    """Which other one is merged into the one of the path, and which fields come of it."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    with_: UUID = Field(alias="with", description="The other one. It is gone afterwards.")
    with_version: int | None = Field(
        default=None, ge=1, strict=True, description="Of the other one, as If-Match is of this one."
    )
    fields: dict[FieldName, FieldChoice] = Field(
        default={},
        max_length=CHOICES_MAX,
        description='By wire name: "this", "other" or {"value": …}; custom fields as'
        " `customFields.<key>`. Without a choice this one's value stays, and what it lacks is the"
        " other's.",
    )


def _add_merge(kind: type[MergeableEntity], example: dict[str, Any], what: str) -> None:
    stamps = {"createdAt": EXAMPLE_TIME, "updatedAt": EXAMPLE_TIME, "version": 2}
    shown = {"id": EXAMPLE_ID, **example, **stamps, "merged": OTHER_ID, "moved": {}}
    asked = {"with": OTHER_ID, "fields": {next(iter(example)): "other"}}

    @ROUTER.post(
        f"/api/{kind.PLURAL}/{{id}}/merge",
        operation_id=f"merge{kind.__name__}",
        summary=f"Merge another {kind.KIND} into this one{what}",
        responses={
            200: success("This one, as it is now.", None, "ETag", "Annals-Position", example=shown),
            **problems(*ON_BODY, *ON_FIELDS, *ON_WRITE, *POSSIBLE),
        },
        openapi_extra=body({JSON_TYPE: (MergeRequest, asked)}),
        dependencies=[Depends(require_write_capacity)],
    )
    def merge(
        entity_id: EntityId,
        services: ServicesDep,
        _caller: Annotated[Caller, Depends(require_permission(Permission.WRITE))],
        versions: Versions,
        given: Annotated[Body, Depends(body_of(JSON_TYPE))],
        executor: Executor,
    ) -> Response:
        def act(scope: Scope) -> Response:
            asked = checked(MergeRequest, given)
            merge: Callable[..., MergeOutcome] = partial(
                services.merging.merge,
                scope,
                kind,
                entity_id,
                asked.with_,
                asked.fields,
                other_version=asked.with_version,
            )
            merged = on_versions(versions, lambda version: merge(expected_version=version))
            return _answer(merged, asked.with_)

        return executor.run(act, given)


def _answer(merged: MergeOutcome, other_id: UUID) -> Response:
    outcome = merged.outcome
    content = {**representation(outcome.entity), "merged": other_id, "moved": merged.moved}
    headers = position_header(outcome)
    return versioned(orjson.dumps(content), outcome.entity.version, 200, **headers)


_add_merge(
    Account,
    {"company": "Acme Corporation", "type": "customer"},
    ", with all that hangs on it",
)
_add_merge(Contact, {"name": "Ada Lovelace", "accountId": EXAMPLE_ID}, "")
