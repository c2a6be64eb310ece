"""/api/undo: undo one event, or all events of a command."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from api.dependencies.annotated import Executor, JsonBody, ServicesDep, Writer
from api.dependencies.request import command_scope, require_write_capacity
from api.dependencies.services import Services
from api.http.auth import Caller
from api.http.bodies import RequestModel, parse_body
from api.http.conditions import await_readable
from api.http.openapi.bodies import either, request_body
from api.http.openapi.examples import EXAMPLE_ACTOR, EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.records import Actor, FieldChange, ResponseModel
from api.http.openapi.responses import ON_BODY, ON_READ, ON_WRITE, problems, success
from api.http.parameters import invalid_parameter, reject_control_characters
from api.http.responses import json_response
from api.jobs.responses import JOB_ACCEPTED, job_accepted
from commands.permissions import write_permission
from commands.undo.commands import UndoTarget, needs_undo_job, undo_events_max
from commands.undo.plan import UndoAttempt, UndoPlan, UndoStep
from commands.undo.work import KIND, undo_parameters
from domain.shared.changes import FieldChange as Change
from domain.shared.entity import (
    EntityDeleted,
    EntityEvent,
    EntityRestored,
    EntityStatusChanged,
    EntityUpdated,
)
from domain.shared.kinds import ENTITY_OF, KINDS
from domain.shared.refusals import Refusal, UndoConflict
from eventlog.reading.actions import action_of
from eventlog.reading.audit import whole_command
from eventlog.reading.positions import POSITION_MAX
from eventlog.scope import Scope
from readmodels.audit import (
    Operation,
    last_positions_below,
    operation_of,
    positions_of_command,
)
from runtime import codes
from runtime.errors import as_api_error, facts_of
from runtime.patches import JSON_TYPE

COMMAND_ID_MAX_CHARS = 128
FORCE_MAX = 500
PREVIEW_EVENTS_MAX = 500
"""Maximum number of events of a large operation that a preview evaluates: the last ones."""
PREVIEW_SHOWN_MAX = 100
"""Maximum number each of changes, conflicts and obstacles in the preview of a large operation."""
FORCED_NAME_MAX_CHARS = 200

ROUTER = APIRouter(prefix="/api/undo", tags=["undo"])

Position = Annotated[int, Field(ge=1, le=POSITION_MAX, strict=True)]
CommandId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=COMMAND_ID_MAX_CHARS),
    AfterValidator(reject_control_characters),
]
ForcedName = Annotated[str, StringConstraints(min_length=1, max_length=FORCED_NAME_MAX_CHARS)]

EXAMPLE_UNDONE = {
    "position": 7,
    "entityType": "account",
    "entityId": EXAMPLE_ID,
    "action": "update",
    "changes": [{"field": "nextAction", "before": "Send the term sheet", "after": None}],
}
EXAMPLE_CONFLICT = {
    "kind": "account",
    "entityId": EXAMPLE_ID,
    "field": "nextAction",
    "position": 9,
    "actor": EXAMPLE_ACTOR,
    "recordedAt": EXAMPLE_TIME,
    "canForce": True,
}


class UndoRequest(RequestModel):
    """What to undo: one event, or all events of a command."""

    model_config = ConfigDict(json_schema_extra=either("eventPosition", "commandId"))

    event_position: Position | None = Field(
        default=None, description="A position as in Annals-Position or in a history."
    )
    command_id: CommandId | None = Field(
        default=None, description="A command as in Annals-Command or in a history."
    )
    force: list[ForcedName] = Field(
        default=[],
        max_length=FORCE_MAX,
        description="Fields whose later changes undo overwrites: `nextAction` for all entities,"
        " `<entity id>/nextAction` for one.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.event_position is None) == (self.command_id is None):
            raise ValueError("either eventPosition or commandId is needed")
        return self


class UndoneChange(ResponseModel):
    """What undoing one event changes."""

    position: int = Field(description="The event.")
    entity_type: str
    entity_id: UUID
    action: str
    changes: list[FieldChange]


class UndoOutcome(ResponseModel):
    """The changes that were made."""

    command_id: str
    changes: list[UndoneChange]


class LaterChange(ResponseModel):
    """A later change, which the undo would overwrite."""

    kind: str
    entity_id: UUID
    field: str
    position: int
    actor: Actor
    recorded_at: datetime
    can_force: bool


class UndoObstacle(ResponseModel):
    """Another reason against the undo; further members carry details."""

    model_config = ConfigDict(extra="allow")

    code: str
    detail: str


class EventCount(ResponseModel):
    """How many events of one kind a command has."""

    entity_type: str
    action: str
    count: int


class UndoPreview(ResponseModel):
    """What an undo would change, and what prevents it."""

    can_undo: bool
    changes: list[UndoneChange]
    conflicts: list[LaterChange]
    obstacles: list[UndoObstacle]
    positions: list[int] = Field(default=[], description="The events; absent if it takes a job.")
    is_job: bool = Field(default=False, description="True if it takes a job; absent otherwise.")
    events: int | None = Field(default=None, description="The events, if it takes a job.")
    did: list[EventCount] | None = Field(default=None, description="If it takes a job.")
    examined: int | None = Field(default=None, description="If it takes a job.")


@ROUTER.post(
    "",
    operation_id="undo",
    summary="Undo an event, or all events of a command; an undo can be undone as well",
    responses={
        200: success(
            "Undone, with the changes made.",
            UndoOutcome,
            "Annals-Position",
            example={"commandId": EXAMPLE_ID, "changes": [EXAMPLE_UNDONE]},
        ),
        202: JOB_ACCEPTED,
        **problems(
            *ON_BODY,
            codes.TOO_MANY_OPEN_JOBS,
            *ON_WRITE,
            *(codes.INVALID_FIELDS, codes.FIELD_REQUIRED, codes.UNKNOWN_FIELD, codes.TOO_LONG),
            *(codes.INVALID_NUMBER, codes.INVALID_VALUE, codes.NOT_A_MEMBER),
            *(codes.NOTHING_TO_UNDO, codes.TOO_MUCH_TO_UNDO, codes.NOT_UNDOABLE),
            *(codes.UNDO_CONFLICT, codes.ALREADY_UNDONE),
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
    body: JsonBody,
    executor: Executor,
) -> Response:
    """Undoes everything or nothing; 409 (E5014) names later changes that it would overwrite.

    A command with more than 1,000 events is undone by a job. The job does not overwrite later
    changes: it reports each of them as an error, and undoes the rest.
    """
    undo_request = parse_body(UndoRequest, body)
    force = undo_request.force
    target = await _find_target(
        request, caller, undo_request.event_position, undo_request.command_id
    )

    def act(scope: Scope) -> Response:
        if isinstance(target, LargeOperation):
            target.authorise(caller)
            operation = target.operation
            parameters = undo_parameters(target.command_id, operation.last_position, force)
            job = services.jobs.request(scope, KIND, parameters, total=operation.events)
            return job_accepted(job, scope)
        outcome = services.undo.undo(scope, target, force=force, authorise=caller.require)
        content = {"commandId": scope.command_id, "changes": _changes_as_json(outcome.plan)}
        return json_response(content, position=outcome.position)

    return await run_in_threadpool(executor.run, act, body)


@ROUTER.get(
    "/preview",
    operation_id="previewUndo",
    summary="What an undo would change, and what prevents it",
    responses={
        200: success(
            "`conflicts` are later changes, `obstacles` other reasons against the undo. If it takes"
            " a job, only the last events are evaluated (`examined`), but all are counted"
            " (`events`, `did`).",
            UndoPreview,
            example={
                "canUndo": False,
                "positions": [7],
                "changes": [EXAMPLE_UNDONE],
                "conflicts": [EXAMPLE_CONFLICT],
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
    _: Annotated[None, Depends(await_readable)],
    event_position: Annotated[
        int | None, Query(alias="eventPosition", ge=1, le=POSITION_MAX)
    ] = None,
    command_id: Annotated[CommandId | None, Query(alias="commandId")] = None,
) -> Response:
    """Records nothing. The changes are those of an undo that forces all fields that it can."""
    if (event_position is None) == (command_id is None):
        raise invalid_parameter("eventPosition", "either eventPosition or commandId is needed")
    target = await _find_target(request, caller, event_position, command_id)
    scope = command_scope(request, caller)
    if isinstance(target, LargeOperation):
        target.authorise(caller)
        positions = await run_in_threadpool(_last_positions, services, scope, target)
        attempts = await run_in_threadpool(
            services.undo.preview_each, scope, target.command_id, positions
        )
        return json_response(_large_preview_as_json(target.operation, attempts))
    plan = await run_in_threadpool(services.undo.preview, scope, target, authorise=caller.require)
    return json_response(_preview_as_json(plan))


@dataclass(frozen=True)
class LargeOperation:
    """A command that is undone by a job because of its number of events."""

    command_id: str
    operation: Operation

    def authorise(self, caller: Caller) -> None:
        """Raise 403 (E1008) if the caller may not undo all of it."""
        for kind, _, _ in self.operation.did:
            caller.require(write_permission(KINDS[kind]))


async def _find_target(
    request: Request, caller: Caller, event_position: int | None, command_id: str | None
) -> UndoTarget | LargeOperation:
    """Return the events to undo: for an event that is part of a merge, those of the whole merge.

    Raises 409 (E5055) if the job of the command is still recording events, and `TooMuchToUndo`.
    """
    services = request.app.state.services
    if event_position is not None:
        async with services.reads.workspace(caller.workspace_id) as connection:
            command_id = await whole_command(connection, caller.workspace_id, event_position)
        if command_id is None:
            return UndoTarget((event_position,))
    assert command_id is not None
    async with services.reads.workspace(caller.workspace_id) as connection:
        workspace_id = caller.workspace_id
        operation = await operation_of(connection, workspace_id, command_id)
        whole = await whole_command(connection, workspace_id, operation.last_position)
        limit = undo_events_max(is_atomic=whole is not None)
        found = await positions_of_command(connection, workspace_id, command_id, limit + 1)
    if operation.job_id is not None:
        scope = command_scope(request, caller)
        await run_in_threadpool(services.undo.require_ended, scope, operation.job_id)
    if needs_undo_job(operation.events, is_atomic=whole is not None):
        return LargeOperation(command_id, operation)
    return UndoTarget(tuple(found), command_id)


def _last_positions(services: Services, scope: Scope, target: LargeOperation) -> list[int]:
    """Return the positions of the events that a job would undo first."""
    with services.log.transaction(scope) as connection:
        return last_positions_below(
            connection,
            workspace_id=scope.workspace_id,
            command_id=target.command_id,
            below=target.operation.last_position + 1,
            limit=PREVIEW_EVENTS_MAX,
        )


def _preview_as_json(plan: UndoPlan) -> dict[str, Any]:
    return {
        "canUndo": not plan.conflicts and not plan.refusals,
        "positions": plan.positions,
        "changes": _changes_as_json(plan),
        "conflicts": [facts_of(each) for each in plan.conflicts],
        "obstacles": [_obstacle_as_json(each) for each in plan.refusals],
    }


def _large_preview_as_json(operation: Operation, attempts: list[UndoAttempt]) -> dict[str, Any]:
    refusals = [each.refusal for each in attempts if each.refusal is not None]
    with_conflicts = [each for each in refusals if isinstance(each, UndoConflict)]
    conflicts = [facts_of(conflict) for each in with_conflicts for conflict in each.conflicts]
    obstacles = [_obstacle_as_json(each) for each in refusals if not isinstance(each, UndoConflict)]
    changes = [change for each in attempts for change in _changes_as_json(each.plan)]
    return {
        "canUndo": not refusals,
        "isJob": True,
        "events": operation.events,
        "did": [
            {"entityType": kind, "action": action, "count": count}
            for kind, action, count in operation.did
        ],
        "examined": sum(len(each.targets) for each in attempts),
        "changes": changes[:PREVIEW_SHOWN_MAX],
        "conflicts": conflicts[:PREVIEW_SHOWN_MAX],
        "obstacles": obstacles[:PREVIEW_SHOWN_MAX],
    }


def _obstacle_as_json(refusal: Refusal) -> dict[str, Any]:
    error = as_api_error(refusal)
    return {**error.facts, "code": error.code.code, "detail": error.detail or error.code.title}


def _changes_as_json(plan: UndoPlan) -> list[dict[str, Any]]:
    return [_change_as_json(step, event) for step in plan.steps for event in step.events]


def _change_as_json(step: UndoStep, event: EntityEvent) -> dict[str, Any]:
    kind = ENTITY_OF[event.TOPIC]
    return {
        "position": step.target.position,
        "entityType": kind.KIND,
        "entityId": str(event.originator_id),
        "action": _action_name(event),
        "changes": [{"field": name, **each} for name, each in _changed_fields(event).items()],
    }


def _action_name(event: EntityEvent) -> str:
    """Return the action that the audit trail would show if the event were not an undo."""
    names = {"mergedInto": "merged_into", "movedTo": "moved_to", "movedFrom": "moved_from"}
    data = {wire: getattr(event, name, None) for wire, name in names.items()}
    return action_of(event.TOPIC, data)


def _changed_fields(event: EntityEvent) -> dict[str, Change]:
    """Return the changed fields, before and after, as histories show them."""
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
