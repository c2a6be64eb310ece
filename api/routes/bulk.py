"""/api/bulk: the same change to many entities, while the client waits or as a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import ConfigDict, Field, ValidationError, model_validator

from api.dependencies.annotated import Executor, ServicesDep, Versions, Writer
from api.dependencies.request import require_write_capacity
from api.http.auth import Caller
from api.http.bodies import Body, RequestModel, require_body, validate
from api.http.conditions import (
    MIN_POSITION,
    await_position,
    parse_position,
    reject_if_match,
    wait_for_projections,
)
from api.http.openapi.bodies import either, one_member, request_body
from api.http.openapi.examples import EXAMPLE_ID
from api.http.openapi.records import ItemProblem, ResponseModel
from api.http.openapi.responses import ON_BODY, ON_FIELDS, ON_READ, ON_WRITE, problems, success
from api.http.parameters import ALL, OneOfKinds, filter_model
from api.http.responses import json_response
from api.jobs.responses import JOB_ACCEPTED, job_accepted
from commands.bulk import (
    BulkChange,
    BulkOutcome,
    ItemOutcome,
    items_max,
    needs_job,
    require_item_count,
)
from commands.permissions import write_permission
from domain.shared.entity import Entity
from domain.shared.fields import field_errors
from domain.shared.kinds import KINDS
from domain.shared.refusals import FieldError, InvalidFields
from eventlog.scope import Scope
from readmodels.lists import LISTS, ListQuery, list_ids
from runtime import codes
from runtime.errors import failed_item
from runtime.patches import JSON_TYPE
from runtime.work.bulk import KIND, bulk_change

MULTI_STATUS = 207

ROUTER = APIRouter(prefix="/api/bulk", tags=["jobs"])

BULK_KINDS = {kind.KIND: kind for kind in KINDS.values() if kind.PLURAL in LISTS}
"""The kinds that can be changed in bulk: every kind that has a list."""
FILTERS = {name: filter_model(kind, LISTS[kind.PLURAL]) for name, kind in BULK_KINDS.items()}

EXAMPLE = {
    "kind": "account",
    "filter": {"type": "customer", "status": "prospect"},
    "change": {"set": {"priority": "high"}},
}
EXAMPLE_OUTCOMES = [
    {"id": EXAMPLE_ID, "status": 200, "version": 4},
    {
        "id": EXAMPLE_ID,
        "status": codes.NOT_FOUND.status,
        "problem": {
            "code": codes.NOT_FOUND.code,
            "title": codes.NOT_FOUND.title,
            "detail": codes.NOT_FOUND.title,
        },
    },
]


class BulkOperation(RequestModel):
    """Exactly one of the three members."""

    model_config = ConfigDict(alias_generator=None, json_schema_extra=one_member)

    set: Annotated[dict[str, Any], Field(min_length=1)] | None = Field(
        default=None,
        description="A merge patch of the fields, such as status and assignee.",
    )
    delete: Literal[True] | None = None
    restore: Literal[True] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.given()) != 1:
            raise ValueError("one of set, delete and restore is needed")
        return self

    def given(self) -> dict[str, Any]:
        """Return the member that was given, by name."""
        return self.model_dump(exclude_none=True) | ({"set": self.set} if self.set else {})


class BulkRequest(RequestModel):
    """The entities, and the change to make to each of them."""

    model_config = ConfigDict(json_schema_extra=either("ids", "filter"))

    kind: Annotated[str, OneOfKinds(tuple(BULK_KINDS))]
    ids: Annotated[list[UUID], Field(min_length=1)] | None = None
    filter: dict[str, Any] | None = Field(
        default=None, description="Filters of the list of this kind, and `search`."
    )
    change: BulkOperation
    atomic: bool = Field(default=False, description="Change all of them or none.")

    @model_validator(mode="after")
    def _ids_or_filter(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("either ids or filter is needed")
        if self.filter is not None and self.change.restore:
            raise ValueError("what is deleted is in no list: restore by ids")
        return self


class BulkItem(ResponseModel):
    """The outcome for one entity: its version, or a problem."""

    id: UUID
    status: int = Field(description="200, or the status that the change of it alone would have.")
    version: int | None = None
    problem: ItemProblem | None = None


class BulkOutcomes(ResponseModel):
    """The outcomes."""

    command_id: str
    total: int
    succeeded: int
    failed: int
    outcomes: list[BulkItem]


class _ParsedRequest:
    """A valid request: the kind, the change and the selection of entities."""

    def __init__(self, body: Body) -> None:
        """Parse the body. Raises `InvalidFields`, `TooManyItems`."""
        fields = body.fields()
        if isinstance(ids := fields.get("ids"), list):
            require_item_count(len(ids), atomic=False)  # before each of them is validated
        self.parsed = validate(BulkRequest, fields)
        self.kind: type[Entity] = BULK_KINDS[self.parsed.kind]
        self.change_given = self.parsed.change.given()
        self.change: BulkChange = bulk_change(self.kind, self.change_given)

    def query(self, workspace_id: UUID) -> ListQuery:
        """Return the list query for the filter. Raises `InvalidFields`."""
        model = FILTERS[self.parsed.kind]
        try:
            filters = model.model_validate(self.parsed.filter).model_dump(
                by_alias=True, exclude_none=True
            )
        except ValidationError as error:
            raise InvalidFields(_filter_errors(field_errors(error))) from None
        search = filters.pop("search", None)
        wanted = {name: str(value) for name, value in filters.items() if value != ALL}
        return ListQuery(workspace_id, wanted, search or None)


def _filter_errors(errors: list[FieldError]) -> list[FieldError]:
    """Return the first error of each filter, by the name of the filter."""
    named = {f"filter.{each.field.split('.')[0]}": each for each in reversed(errors)}
    return [FieldError(name, each.kind, each.message) for name, each in named.items()]


@ROUTER.post(
    "",
    operation_id="changeInBulk",
    summary="Make the same change to many entities: up to 200 at once, up to 100,000 as a job",
    status_code=MULTI_STATUS,
    responses={
        MULTI_STATUS: success(
            "The outcome for each. An entity that already was as requested counts as changed.",
            BulkOutcomes,
            "Annals-Position",
            example={
                "commandId": EXAMPLE_ID,
                "total": 2,
                "succeeded": 1,
                "failed": 1,
                "outcomes": EXAMPLE_OUTCOMES,
            },
        ),
        202: JOB_ACCEPTED,
        **problems(
            *(codes.TOO_MANY_ITEMS, codes.BULK_REFUSED, codes.TIME_TAKEN, codes.INVALID_IF_MATCH),
            *(codes.TOO_MANY_OPEN_JOBS, *ON_BODY, *ON_FIELDS, *ON_WRITE, *ON_READ),
        ),
    },
    openapi_extra=request_body({JSON_TYPE: (BulkRequest, EXAMPLE)}),
    dependencies=[Depends(require_write_capacity)],
)
async def bulk(
    request: Request,
    services: ServicesDep,
    caller: Writer,
    versions: Versions,
    body: Annotated[Body, Depends(require_body(JSON_TYPE, limit="bulk_body_max_bytes"))],
    _: Annotated[None, Depends(await_position())],
    executor: Executor,
) -> Response:
    """All changes are one command: POST /api/undo with its `commandId` undoes them."""
    reject_if_match(versions)
    bulk_request = await run_in_threadpool(_ParsedRequest, body)
    kind, atomic = bulk_request.kind, bulk_request.parsed.atomic
    caller.require(write_permission(kind))
    ids, selection = await _select_ids(request, caller, bulk_request)
    require_item_count(len(ids), atomic=atomic)

    def act(scope: Scope) -> Response:
        if not needs_job(len(ids), atomic=atomic):
            outcome = services.bulk.apply(scope, kind, ids, bulk_request.change, atomic=atomic)
            return _multi_status(scope, outcome)
        parameters = {"kind": kind.KIND, "change": bulk_request.change_given, **selection}
        items = (str(each) for each in ids)
        return job_accepted(services.jobs.request(scope, KIND, parameters, items=items), scope)

    return await run_in_threadpool(executor.run, act, body)


async def _select_ids(
    request: Request, caller: Caller, bulk_request: _ParsedRequest
) -> tuple[Sequence[UUID], dict[str, Any]]:
    """Return the distinct ids, at most one more than allowed, and the selection for the job.

    Ids found by a filter are those at one log position; later matches are not changed.
    """
    parsed = bulk_request.parsed
    if parsed.ids is not None:
        return list(dict.fromkeys(parsed.ids)), {}
    spec = LISTS[bulk_request.kind.PLURAL]
    if (wanted := request.headers.get(MIN_POSITION)) is not None:
        await wait_for_projections(request, (spec.plural,), parse_position(wanted))
    query = bulk_request.query(caller.workspace_id)
    limit = items_max(atomic=parsed.atomic) + 1
    async with request.app.state.services.reads.workspace(caller.workspace_id) as connection:
        ids, position = await list_ids(connection, spec, query, limit)
    return ids, {"filter": parsed.filter, "position": position}


def _multi_status(scope: Scope, outcome: BulkOutcome) -> Response:
    failed = len(outcome.failed)
    content = {
        "commandId": scope.command_id,
        "total": len(outcome.items),
        "succeeded": len(outcome.items) - failed,
        "failed": failed,
        "outcomes": [_outcome_as_json(each) for each in outcome.items],
    }
    return json_response(content, MULTI_STATUS, position=outcome.position)


def _outcome_as_json(outcome: ItemOutcome) -> dict[str, Any]:
    if outcome.error is not None:
        return failed_item(outcome)
    assert outcome.entity is not None
    return {"id": str(outcome.entity_id), "status": 200, "version": outcome.entity.version}
