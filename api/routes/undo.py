"""/api/undo: take back one change, or all that a command did."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Self

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic.alias_generators import to_camel

from api.dependencies.annotated import Executor, ServicesDep, Writer
from api.dependencies.request import command_scope, require_write_capacity
from api.http.auth import Caller
from api.http.bodies import Body, parse_body, require_body
from api.http.conditions import POSITION_MAX, await_position, wait_for_projections
from api.http.openapi.bodies import request_body
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.responses import ON_BODY, ON_READ, ON_WRITE, problems, success
from api.http.parameters import invalid_parameter, reject_control_characters
from api.http.responses import POSITION
from api.jobs.responses import JOB_ACCEPTED, job_accepted
from commands.permissions import write_permission
from commands.undo.commands import UndoTarget, needs_undo_job, undo_events_max
from commands.undo.plan import UndoAttempt, UndoPlan, UndoStep
from commands.undo.work import KIND, undo_parameters
from domain.shared.changes import FieldChange
from domain.shared.entity import (
    EntityDeleted,
    EntityEvent,
    EntityRestored,
    EntityStatusChanged,
    EntityUpdated,
)
from domain.shared.kinds import ENTITY_OF, KINDS
from domain.shared.refusals import Refusal, UndoConflict
from eventlog.reading.audit import whole_command
from eventlog.scope import Scope
from projections.audit import action_of
from readmodels.audit import (
    Operation,
    last_positions_below,
    operation_of,
    positions_of_command,
)
from runtime import codes
from runtime.errors import ApiError, as_api_error, facts_of
from runtime.patches import JSON_TYPE

PROJECTION = "audit"
"""By it the events of a command are found."""
COMMAND_ID_MAX_CHARS = 128
FORCE_MAX = 500
PREVIEW_EVENTS_MAX = 500
"""Events of a large operation that a preview looks at: those that would be undone first."""
PREVIEW_SHOWN_MAX = 100
"""Changes, conflicts and obstacles of a large operation that are shown, of each."""
FORCED_NAME_MAX_CHARS = 200

ROUTER = APIRouter(prefix="/api/undo", tags=["undo"])

Position = Annotated[int, Field(ge=1, le=POSITION_MAX, strict=True)]
CommandId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=COMMAND_ID_MAX_CHARS),
    AfterValidator(reject_control_characters),
]
ForcedName = Annotated[str, StringConstraints(min_length=1, max_length=FORCED_NAME_MAX_CHARS)]

CHANGE = {
    "position": 7,
    "entityType": "account",
    "entityId": EXAMPLE_ID,
    "action": "update",
    "changes": [{"field": "nextAction", "before": "Send the term sheet", "after": None}],
}
CONFLICT = {
    "kind": "account",
    "entityId": EXAMPLE_ID,
    "field": "nextAction",
    "position": 9,
    "actor": {"type": "api_key", "id": EXAMPLE_ID, "name": "Nightly sync"},
    "recordedAt": EXAMPLE_TIME,
    "canForce": True,
}


class UndoRequest(BaseModel):
    """What is to be undone: one event, or all that a command did."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    event_position: Position | None = Field(
        default=None, description="As Annals-Position or a history names it."
    )
    command_id: CommandId | None = Field(
        default=None, description="As Annals-Command or a history names it."
    )
    force: list[ForcedName] = Field(
        default=[],
        max_length=FORCE_MAX,
        description="Fields whose later changes are overwritten: `nextAction` wherever it is in"
        " conflict, `<entity id>/nextAction` of one thing.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.event_position is None) == (self.command_id is None):
            raise ValueError("either eventPosition or commandId is needed")
        return self


@ROUTER.post(
    "",
    operation_id="undo",
    summary="Undo a change, or all that a command did; an undo can be undone as well",
    responses={
        200: success(
            "Undone: this is what it changed.",
            None,
            "Annals-Position",
            example={"commandId": EXAMPLE_ID, "changes": [CHANGE]},
        ),
        202: JOB_ACCEPTED,
        **problems(
            *ON_BODY,
            *ON_WRITE,
            *(codes.INVALID_FIELDS, codes.FIELD_REQUIRED, codes.UNKNOWN_FIELD, codes.TOO_LONG),
            *(codes.INVALID_NUMBER, codes.INVALID_VALUE, codes.NOT_A_MEMBER),
            *(codes.NOTHING_TO_UNDO, codes.TOO_MUCH_TO_UNDO, codes.NOT_UNDOABLE),
            *(codes.UNDO_CONFLICT, codes.ALREADY_UNDONE, codes.NOT_YET_PROJECTED),
            codes.TIME_TAKEN,
            codes.PART_OF_A_WHOLE,
            codes.OPERATION_IN_PROGRESS,
        ),
    },
    openapi_extra=request_body(
        {JSON_TYPE: (UndoRequest, {"eventPosition": 7, "force": ["nextAction"]})}
    ),
    dependencies=[Depends(require_write_capacity)],
)
async def undo(
    request: Request,
    services: ServicesDep,
    caller: Writer,
    given: Annotated[Body, Depends(require_body(JSON_TYPE))],
    executor: Executor,
) -> Response:
    """All of it or nothing; 409 (E5014) names what was changed since.

    What a command did with more than 1,000 events is undone by a job: what was changed since stays
    as it is and is an error of the job, the rest is undone.
    """
    asked_for = parse_body(UndoRequest, given)
    asked = await _asked(request, caller, asked_for.event_position, asked_for.command_id)

    def act(scope: Scope) -> Response:
        if isinstance(asked, Large):
            asked.require_allowed(caller)
            parameters = undo_parameters(
                asked.command_id, asked.operation.last_position, asked_for.force
            )
            total = asked.operation.events
            return job_accepted(services.jobs.request(scope, KIND, parameters, total=total), scope)
        undone = services.undo.undo(scope, asked, force=asked_for.force, authorise=caller.require)
        content = {"commandId": scope.command_id, "changes": _changes(undone.plan)}
        headers = {POSITION: str(undone.position)}
        return Response(orjson.dumps(content), media_type=JSON_TYPE, headers=headers)

    return await run_in_threadpool(executor.run, act, given)


@ROUTER.get(
    "/preview",
    operation_id="previewUndo",
    summary="What an undo would change, and what stands in its way",
    responses={
        200: success(
            "`conflicts` are later changes, `obstacles` what else hinders. Of what a job would undo"
            " the first events are looked at (`examined`), and all are counted (`events`, `did`).",
            example={
                "canUndo": False,
                "positions": [7],
                "changes": [CHANGE],
                "conflicts": [CONFLICT],
                "obstacles": [],
            },
        ),
        **problems(
            *(codes.NOTHING_TO_UNDO, codes.TOO_MUCH_TO_UNDO, codes.OPERATION_IN_PROGRESS),
            *ON_READ,
        ),
    },
)
async def preview(
    request: Request,
    services: ServicesDep,
    caller: Writer,
    _: Annotated[None, Depends(await_position(PROJECTION))],
    event_position: Annotated[
        int | None, Query(alias="eventPosition", ge=1, le=POSITION_MAX)
    ] = None,
    command_id: Annotated[CommandId | None, Query(alias="commandId")] = None,
) -> Response:
    """Nothing is recorded. The changes are those that come of forcing whatever can be forced."""
    if (event_position is None) == (command_id is None):
        raise invalid_parameter("eventPosition", "either eventPosition or commandId is needed")
    asked = await _asked(request, caller, event_position, command_id)
    scope = command_scope(request, caller)
    if isinstance(asked, Large):
        asked.require_allowed(caller)
        positions = await _first_positions(request, caller, asked)
        attempts = await run_in_threadpool(
            services.undo.preview_each, scope, asked.command_id, positions
        )
        return Response(orjson.dumps(_shown_large(asked, attempts)), media_type=JSON_TYPE)
    plan = await run_in_threadpool(services.undo.preview, scope, asked, authorise=caller.require)
    return Response(orjson.dumps(_shown(plan)), media_type=JSON_TYPE)


@dataclass(frozen=True)
class Large:
    """What a command did, where that is too much to undo at once."""

    command_id: str
    operation: Operation

    def require_allowed(self, caller: Caller) -> None:
        """Raises 403 (E1008) where the caller may not undo all of it."""
        for kind, _, _ in self.operation.did:
            caller.require(write_permission(KINDS[kind]))


async def _asked(
    request: Request, caller: Caller, event_position: int | None, command_id: str | None
) -> UndoTarget | Large:
    """What is meant: of a merge, all of it, whichever of its events is named.

    Raises 503 (E3003) where a command's events are not known yet, 409 (E5055) where there are more
    to come, `TooMuchToUndo`.
    """
    services = request.app.state.services
    if event_position is not None:
        async with services.reads.workspace(caller.workspace_id) as connection:
            command_id = await whole_command(connection, caller.workspace_id, event_position)
        if command_id is None:
            return UndoTarget((event_position,))
    assert command_id is not None
    head = await run_in_threadpool(services.log.recorder.max_notification_id)
    await wait_for_projections(request, (PROJECTION,), head or 0)
    async with services.reads.workspace(caller.workspace_id) as connection:
        workspace_id = caller.workspace_id
        operation = await operation_of(connection, workspace_id, command_id)
        whole = await whole_command(connection, workspace_id, operation.last_position)
        limit = undo_events_max(is_atomic=whole is not None)
        found = await positions_of_command(connection, workspace_id, command_id, limit + 1)
    if found is None:
        raise ApiError(codes.NOT_YET_PROJECTED, "The audit trail has parked entities.")
    if operation.job_id is not None:
        scope = command_scope(request, caller)
        await run_in_threadpool(services.undo.require_ended, scope, operation.job_id)
    if needs_undo_job(operation.events, is_atomic=whole is not None):
        return Large(command_id, operation)
    return UndoTarget(tuple(found), command_id)


async def _first_positions(request: Request, caller: Caller, asked: Large) -> list[int]:
    """Of what would be undone first."""
    below = asked.operation.last_position + 1
    find = partial(
        last_positions_below,
        workspace_id=caller.workspace_id,
        command_id=asked.command_id,
        below=below,
        limit=PREVIEW_EVENTS_MAX,
    )
    services = request.app.state.services

    def ask() -> list[int]:
        with services.log.transaction(command_scope(request, caller)) as connection:
            return find(connection)

    return await run_in_threadpool(ask)


def _shown(plan: UndoPlan) -> dict[str, Any]:
    return {
        "canUndo": not plan.conflicts and not plan.refusals,
        "positions": plan.positions,
        "changes": _changes(plan),
        "conflicts": [facts_of(each) for each in plan.conflicts],
        "obstacles": [_obstacle(each) for each in plan.refusals],
    }


def _shown_large(asked: Large, attempts: list[UndoAttempt]) -> dict[str, Any]:
    refused = [each.refusal for each in attempts if each.refusal is not None]
    met = [each for each in refused if isinstance(each, UndoConflict)]
    conflicts = [facts_of(one) for each in met for one in each.conflicts]
    others = [_obstacle(each) for each in refused if not isinstance(each, UndoConflict)]
    changes = [change for each in attempts for change in _changes(each.plan)]
    return {
        "canUndo": not refused,
        "isJob": True,
        "events": asked.operation.events,
        "did": [
            {"entityType": kind, "action": action, "count": count}
            for kind, action, count in asked.operation.did
        ],
        "examined": sum(len(each.targets) for each in attempts),
        "changes": changes[:PREVIEW_SHOWN_MAX],
        "conflicts": conflicts[:PREVIEW_SHOWN_MAX],
        "obstacles": others[:PREVIEW_SHOWN_MAX],
    }


def _obstacle(refusal: Refusal) -> dict[str, Any]:
    told = as_api_error(refusal)
    return {**told.facts, "code": told.code.code, "detail": told.detail or told.code.title}


def _changes(plan: UndoPlan) -> list[dict[str, Any]]:
    return [_change(step, event) for step in plan.steps for event in step.events]


def _change(step: UndoStep, event: EntityEvent) -> dict[str, Any]:
    kind = ENTITY_OF[event.TOPIC]
    return {
        "position": step.target.position,
        "entityType": kind.KIND,
        "entityId": str(event.originator_id),
        "action": _action(event),
        "changes": [{"field": name, **each} for name, each in _fields(event).items()],
    }


def _action(event: EntityEvent) -> str:
    """As the trail would call it, were it no undo."""
    names = {"mergedInto": "merged_into", "movedTo": "moved_to", "movedFrom": "moved_from"}
    says = {wire: getattr(event, name, None) for wire, name in names.items()}
    return action_of(event.TOPIC, says)


def _fields(event: EntityEvent) -> dict[str, FieldChange]:
    """Before and after as histories show them."""
    if isinstance(event, EntityUpdated):
        return event.changes
    if isinstance(event, EntityStatusChanged):
        name = str(ENTITY_OF[event.TOPIC].STATUS_FIELD)
        return {name: {"before": event.before, "after": event.after}}
    if isinstance(event, EntityDeleted):
        return {name: {"before": value, "after": None} for name, value in event.fields.items()}
    if isinstance(event, EntityRestored):
        return {name: {"before": None, "after": value} for name, value in event.fields.items()}
    return {}
