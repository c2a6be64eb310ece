"""POST /api/accounts/{id}/merge and /api/contacts/{id}/merge."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from pydantic import Field, create_model

from api.dependencies.annotated import (
    EntityId,
    Executor,
    JsonBody,
    ServicesDep,
    Versions,
    Writer,
)
from api.dependencies.request import require_write_capacity
from api.entities.resource import example_response
from api.http.bodies import RequestModel, parse_body
from api.http.conditions import with_if_match
from api.http.openapi.bodies import request_body
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_OTHER_ID
from api.http.openapi.models import entity_model
from api.http.openapi.responses import (
    ON_BODY,
    ON_FIELDS,
    ON_VERSION,
    ON_WRITE,
    problems,
    success,
)
from api.http.responses import json_response
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

ROUTER = APIRouter(tags=["merge"])

ON_MERGE = (
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


class MergeRequest(RequestModel):
    """The other entity, which is merged into the one in the path, and the choice of fields."""

    with_: UUID = Field(alias="with", description="The other entity. The merge deletes it.")
    with_version: int | None = Field(
        default=None,
        ge=1,
        strict=True,
        description="The expected version of the other entity, as If-Match for this one.",
    )
    fields: dict[FieldName, FieldChoice] = Field(
        default={},
        max_length=CHOICES_MAX,
        description='By field name: "this", "other" or {"value": …}; custom fields as'
        " `customFields.<key>`. By default the value of this entity, or of the other one if this"
        " one has none.",
    )


def _add_merge(
    kind: type[MergeableEntity], example: dict[str, Any], and_children: str = ""
) -> None:
    described = Field(description="How many entities moved here, by kind.")
    model = create_model(
        f"Merged{kind.__name__}",
        __base__=entity_model(kind),
        merged=(UUID, Field(description="The entity that was merged into this one.")),
        moved=(dict[str, int], described),
    )
    shown = {**example_response(kind, example), "merged": EXAMPLE_OTHER_ID, "moved": {}}
    request_example = {"with": EXAMPLE_OTHER_ID, "fields": {next(iter(example)): "other"}}

    @ROUTER.post(
        f"/api/{kind.PLURAL}/{{id:uuid}}/merge",
        operation_id=f"merge{kind.__name__}",
        summary=f"Merge another {kind.KIND} into this one{and_children}",
        responses={
            200: success(
                "This entity after the merge.", model, "ETag", "Annals-Position", example=shown
            ),
            **problems(*ON_BODY, *ON_FIELDS, *ON_WRITE, *ON_MERGE),
        },
        openapi_extra=request_body({JSON_TYPE: (MergeRequest, request_example)}),
        dependencies=[Depends(require_write_capacity)],
    )
    def merge(
        entity_id: EntityId,
        services: ServicesDep,
        _caller: Writer,
        versions: Versions,
        body: JsonBody,
        executor: Executor,
    ) -> Response:
        def act(scope: Scope) -> Response:
            request = parse_body(MergeRequest, body)
            merge: Callable[..., MergeOutcome] = partial(
                services.merging.merge,
                scope,
                kind,
                entity_id,
                request.with_,
                request.fields,
                other_version=request.with_version,
            )
            merged = with_if_match(versions, lambda version: merge(expected_version=version))
            return _merge_response(merged, request.with_)

        return executor.run(act, body)


def _merge_response(merged: MergeOutcome, other_id: UUID) -> Response:
    entity, position = merged.outcome.entity, merged.outcome.position
    content = {**representation(entity), "merged": other_id, "moved": merged.moved}
    return json_response(content, version=entity.version, position=position)


_add_merge(
    Account,
    {"company": "Acme Corporation", "type": "customer"},
    ", with the entities that belong to it",
)
_add_merge(Contact, {"name": "Ada Lovelace", "accountId": EXAMPLE_ID})
