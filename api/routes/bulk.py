"""/api/bulk: the same change to many things, while the client waits or as a job."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from api.dependencies.idempotency import Executor
from api.dependencies.request import require_write_capacity
from api.entities.routes import ServicesDep
from api.http.auth import Caller, Permission, require_permission
from api.http.bodies import Body, body_of
from api.http.conditions import MIN_POSITION, POSITION, await_position, parse_position, reach
from api.http.openapi import (
    EXAMPLE_ID,
    ON_BODY,
    ON_FIELDS,
    ON_READ,
    ON_WRITE,
    body,
    problems,
    success,
)
from api.http.parameters import ALL, OneOf, filter_model
from api.jobs.responses import ACCEPTED, accepted
from api.routes.undo import WRITE_OF
from commands.bulk import (
    ATOMIC_ITEMS_MAX,
    INLINE_ITEMS_MAX,
    JOB_ITEMS_MAX,
    BulkChange,
    BulkOutcome,
    ItemOutcome,
)
from domain.shared.entity import Entity
from domain.shared.fields import field_errors
from domain.shared.kinds import KINDS
from domain.shared.refusals import FieldError, InvalidFields
from eventlog.scope import Scope
from readmodels.lists import LISTS, ListQuery, list_ids
from runtime import codes
from runtime.errors import ApiError, failed_item
from runtime.patches import JSON_TYPE
from runtime.work.bulk import KIND, bulk_change

MULTI_STATUS = 207

ROUTER = APIRouter(prefix="/api/bulk", tags=["jobs"])

BULK_KINDS = {kind.KIND: kind for kind in KINDS.values() if kind.PLURAL in LISTS}
"""What can be changed in bulk: whatever there is a list of."""
FILTERS = {name: filter_model(kind, LISTS[kind.PLURAL]) for name, kind in BULK_KINDS.items()}

OUTCOMES = [
    {"id": EXAMPLE_ID, "status": 200, "version": 4},
    {
        "id": EXAMPLE_ID,
        "status": 404,
        "problem": {
            "code": "E5002",
            "title": "There is no such thing in this workspace.",
            "detail": "There is no such thing in this workspace.",
        },
    },
]


class ChangeAsked(BaseModel):
    """One of the three."""

    model_config = ConfigDict(extra="forbid")

    set: dict[str, Any] | None = Field(
        default=None,
        min_length=1,
        description="A merge patch of the fields, status and assignee among them.",
    )
    delete: Literal[True] | None = None
    restore: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if len(self.given()) != 1:
            raise ValueError("one of set, delete and restore is needed")
        return self

    def given(self) -> dict[str, Any]:
        """What is asked for, by its name."""
        return self.model_dump(exclude_none=True) | ({"set": self.set} if self.set else {})


class BulkAsked(BaseModel):
    """Which things, and what is to be done to each of them."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    kind: Annotated[str, OneOf(tuple(BULK_KINDS))]
    ids: list[UUID] | None = Field(default=None, min_length=1)
    filter: dict[str, Any] | None = Field(
        default=None, description="The filters of the list of this kind, `search` among them."
    )
    change: ChangeAsked
    atomic: bool = Field(default=False, description="All of them or none.")

    @model_validator(mode="after")
    def _ids_or_filter(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("either ids or filter is needed")
        if self.filter is not None and self.change.restore:
            raise ValueError("what is deleted is in no list: restore by ids")
        return self


class _Asked:
    """A request that is valid in itself."""

    def __init__(self, given: Body) -> None:
        try:
            self.request = BulkAsked.model_validate(given.fields())
        except ValidationError as error:
            raise InvalidFields(field_errors(error)) from None
        self.kind: type[Entity] = BULK_KINDS[self.request.kind]
        self.change_given = self.request.change.given()
        self.change: BulkChange = bulk_change(self.kind, self.change_given)
        self.limit = ATOMIC_ITEMS_MAX if self.request.atomic else JOB_ITEMS_MAX

    def query(self, workspace_id: UUID) -> ListQuery:
        """What the filter asks of the list."""
        model = FILTERS[self.request.kind]
        try:
            filters = model.model_validate(self.request.filter).model_dump(
                by_alias=True, exclude_none=True
            )
        except ValidationError as error:
            raise InvalidFields(_of_filter(field_errors(error))) from None
        search = filters.pop("search", None)
        wanted = {name: str(value) for name, value in filters.items() if value != ALL}
        return ListQuery(workspace_id, wanted, search or None)


def _of_filter(faults: list[FieldError]) -> list[FieldError]:
    """One fault for each filter, by its name."""
    named = {f"filter.{each.field.split('.')[0]}": each for each in reversed(faults)}
    return [FieldError(name, each.kind, each.message) for name, each in named.items()]


@ROUTER.post(
    "",
    operation_id="bulk",
    summary="Change many things alike; up to 200 at once, up to 100,000 as a job",
    status_code=MULTI_STATUS,
    responses={
        MULTI_STATUS: success(
            "What came of each. What was so already is done as well.",
            None,
            "Annals-Position",
            example={
                "commandId": EXAMPLE_ID,
                "total": 2,
                "succeeded": 1,
                "failed": 1,
                "outcomes": OUTCOMES,
            },
        ),
        202: ACCEPTED,
        **problems(
            *(codes.TOO_MANY_ITEMS, codes.BULK_REFUSED, codes.TIME_TAKEN),
            *ON_BODY,
            *ON_FIELDS,
            *ON_WRITE,
            *ON_READ,
        ),
    },
    openapi_extra=body(
        {
            JSON_TYPE: (
                BulkAsked,
                {
                    "kind": "account",
                    "filter": {"type": "customer", "status": "prospect"},
                    "change": {"set": {"priority": "high"}},
                },
            )
        }
    ),
    dependencies=[Depends(require_write_capacity)],
)
async def bulk(
    request: Request,
    services: ServicesDep,
    caller: Annotated[Caller, Depends(require_permission(Permission.WRITE))],
    given: Annotated[Body, Depends(body_of(JSON_TYPE, limit="bulk_body_max_bytes"))],
    _: Annotated[None, Depends(await_position())],
    executor: Executor,
) -> Response:
    """One event for each thing that changes, all of this command: POST /api/undo takes it back."""
    asked = await run_in_threadpool(_Asked, given)
    caller.require(WRITE_OF.get(asked.kind, Permission.WRITE))
    ids, facts = await _found(request, caller, asked)
    if len(ids) > asked.limit:
        raise ApiError(codes.TOO_MANY_ITEMS, found=len(ids), limit=asked.limit)

    def act(scope: Scope) -> Response:
        if asked.request.atomic or len(ids) <= INLINE_ITEMS_MAX:
            outcome = services.bulk.apply(
                scope, asked.kind, ids, asked.change, atomic=asked.request.atomic
            )
            return _outcomes(scope, outcome)
        parameters = {"kind": asked.kind.KIND, "change": asked.change_given, **facts}
        items = (str(each) for each in ids)
        return accepted(services.jobs.request(scope, KIND, parameters, items=items), scope)

    return await run_in_threadpool(executor.run, act, given)


async def _found(
    request: Request, caller: Caller, asked: _Asked
) -> tuple[list[UUID], dict[str, Any]]:
    """The ids, each once, one more than the limit at the most; and what else the job is to keep.

    Those of a filter are of one position of the log; what comes to match later is left alone.
    """
    if asked.request.ids is not None:
        return list(dict.fromkeys(asked.request.ids)), {}
    spec = LISTS[asked.kind.PLURAL]
    if (wanted := request.headers.get(MIN_POSITION)) is not None:
        await reach(request, (spec.plural,), parse_position(wanted))
    query = asked.query(caller.workspace_id)
    async with request.app.state.services.reads.workspace(caller.workspace_id) as connection:
        ids, position = await list_ids(connection, spec, query, asked.limit + 1)
    return ids, {"filter": asked.request.filter, "position": position}


def _outcomes(scope: Scope, outcome: BulkOutcome) -> Response:
    failed = len(outcome.failed)
    content = {
        "commandId": scope.command_id,
        "total": len(outcome.items),
        "succeeded": len(outcome.items) - failed,
        "failed": failed,
        "outcomes": [_shown(each) for each in outcome.items],
    }
    headers = {POSITION: str(outcome.position)}
    return Response(
        orjson.dumps(content, default=str), MULTI_STATUS, media_type=JSON_TYPE, headers=headers
    )


def _shown(each: ItemOutcome) -> dict[str, Any]:
    if each.error is not None:
        return failed_item(each)
    assert each.entity is not None
    return {"id": str(each.entity_id), "status": 200, "version": each.entity.version}
