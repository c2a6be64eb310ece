"""/api/leads, with updates of the status of one or many, and conversion."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Self
from uuid import UUID

import orjson
from fastapi import Depends, Response
from pydantic import Field, model_validator

from api.dependencies.idempotency import Executor
from api.dependencies.request import require_write_capacity
from api.dependencies.services import Services
from api.entities.actions import Given
from api.entities.routes import EntityId, ServicesDep, Versions, entity_routes
from api.http.auth import Caller, Permission, require_permission
from api.http.bodies import Body, body_of, checked
from api.http.conditions import POSITION, etag, on_versions
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
from api.http.problems import WITH_SUCCESS_FLAG
from commands.leads import (
    LEADS_AT_ONCE_MAX,
    ConversionOverrides,
    StatusUpdates,
    StatusUpdatesRefused,
)
from domain.lead import Lead, LeadStatus
from domain.shared.refusals import Refusal
from eventlog.scope import Scope
from replay.as_of import representation
from runtime import codes
from runtime.errors import ApiError, as_api_error
from runtime.patches import JSON_TYPE

LEAD: dict[str, Any] = {
    "name": "Ada Lovelace",
    "company": "Analytical Engines",
    "source": "website",
}

ROUTER = entity_routes(Lead, example=LEAD)

Writer = Annotated[Caller, Depends(require_permission(Permission.WRITE))]
Content = Annotated[Body, Depends(body_of(JSON_TYPE))]


class StatusUpdate(Given):
    """A status for one lead, or for many."""

    status: LeadStatus
    lead_id: UUID | None = None
    lead_ids: list[UUID] | None = Field(default=None, min_length=1, max_length=LEADS_AT_ONCE_MAX)
    atomic: bool = Field(default=False, description="All of them or none.")

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.lead_id is None) == (self.lead_ids is None):
            raise ValueError("either leadId or leadIds is needed")
        return self


class Conversion(Given):
    """What the lead is to become otherwise than by itself; null leaves a field out."""

    account: dict[str, Any] = Field(default={}, description="Fields of the account.")
    contact: dict[str, Any] = Field(default={}, description="Fields of the contact.")
    opportunity: dict[str, Any] = Field(default={}, description="Fields of the opportunity.")
    account_id: UUID | None = Field(
        default=None, description="An account that is there already, instead of a new one."
    )


MOVED = {"id": EXAMPLE_ID, "status": "contacted", "status_changed_at": EXAMPLE_TIME}


@ROUTER.post(
    "/update-status",
    operation_id="updateLeadStatus",
    summary="Move one lead, or many, to a status",
    responses={
        200: success(
            "With `leadId` it moved: `{success, lead}`. With `leadIds` those in `leads` moved, and"
            " `success` is false where others did not; `errors` says why, by code.",
            None,
            "Annals-Position",
            example={"success": True, "lead": MOVED},
        ),
        **problems(
            *(*ON_BODY, *ON_WRITE, *ON_FIELDS, codes.NOT_FOUND, codes.IS_DELETED),
            *(codes.TRANSITION_REFUSED, codes.STATUS_UNCHANGED, codes.NOTHING_UPDATED),
        ),
    },
    openapi_extra={
        **body({JSON_TYPE: (StatusUpdate, {"leadId": EXAMPLE_ID, "status": "contacted"})}),
        **WITH_SUCCESS_FLAG,
    },
    dependencies=[Depends(require_write_capacity)],
)
def update_status(
    services: ServicesDep, _caller: Writer, given: Content, executor: Executor
) -> Response:
    """Failures carry `success: false` as well."""

    def act(scope: Scope) -> Response:
        asked = checked(StatusUpdate, given)
        if asked.lead_id is not None:
            return _move_one(services, scope, asked.lead_id, asked.status)
        try:
            moves = services.leads.update_statuses(
                scope, asked.lead_ids or [], asked.status.value, atomic=asked.atomic
            )
        except StatusUpdatesRefused as refused:
            raise _not_all(refused.moves) from None
        return _answer(_told(moves), moves.position)

    return executor.run(act, given)


@ROUTER.post(
    "/{id}/convert",
    operation_id="convertLead",
    summary="Make an account, a contact and an opportunity of a lead, which is won by that",
    responses={
        200: success(
            "The lead, and what it became.",
            None,
            "ETag",
            "Annals-Position",
            example={"lead": LEAD, "account": {}, "contact": {}, "opportunity": {}},
        ),
        **problems(
            *(*ON_BODY, *ON_WRITE, *ON_FIELDS, *ON_VERSION, codes.NOT_FOUND, codes.IS_DELETED),
            *(codes.TRANSITION_REFUSED, codes.ALREADY_CONVERTED, codes.ACCOUNT_UNAVAILABLE),
        ),
    },
    openapi_extra=body({JSON_TYPE: (Conversion, {"account": {"priority": "high"}})}),
    dependencies=[Depends(require_write_capacity)],
)
def convert(
    lead_id: EntityId,
    services: ServicesDep,
    _caller: Writer,
    versions: Versions,
    given: Content,
    executor: Executor,
) -> Response:
    """One command: `POST /api/undo` with its `commandId` takes all of it back."""

    def act(scope: Scope) -> Response:
        asked = checked(Conversion, given)
        wishes = ConversionOverrides(
            asked.account, asked.contact, asked.opportunity, asked.account_id
        )
        convert = partial(services.leads.convert, scope, lead_id, wishes)
        done = on_versions(versions, lambda version: convert(expected_version=version))
        became = (done.lead, done.account, done.contact, done.opportunity)
        content = {each.KIND: representation(each) for each in became}
        return _answer(content, done.position, ETag=etag(done.lead.version))

    return executor.run(act, given)


def _move_one(services: Services, scope: Scope, lead_id: UUID, status: LeadStatus) -> Response:
    outcome = services.commands.act(
        scope, Lead, lead_id, lambda lead, at: lead.update_status(status.value, at=at)
    )
    assert isinstance(outcome.entity, Lead)
    return _answer({"success": True, "lead": _moved(outcome.entity)}, outcome.position)


def _moved(lead: Lead) -> dict[str, Any]:
    return {"id": lead.id, "status": lead.status, "status_changed_at": lead.status_changed_at}


def _told(moves: StatusUpdates) -> dict[str, Any]:
    """What came of moving many."""
    updated, failed = len(moves.updated), len(moves.refused)
    some = f"; {failed} could not be" if failed else ""
    return {
        "success": not failed,
        "updated": updated,
        "failed": failed,
        "message": f"{updated} of {updated + failed} updated{some}.",
        "leads": [_moved(lead) for lead in moves.updated],
        "errors": [_why(lead_id, refusal) for lead_id, refusal in moves.refused.items()],
    }


def _why(lead_id: UUID, refusal: Refusal) -> dict[str, Any]:
    told = as_api_error(refusal)
    return {
        **told.facts,
        "leadId": str(lead_id),
        "code": told.code.code,
        "message": told.detail or told.code.title,
    }


def _not_all(moves: StatusUpdates) -> ApiError:
    error = ApiError(codes.NOTHING_UPDATED)
    error.facts |= {
        **_told(StatusUpdates(refused=moves.refused)),
        "message": codes.NOTHING_UPDATED.title,
    }
    return error


def _answer(content: dict[str, Any], position: int, **headers: str) -> Response:
    headers[POSITION] = str(position)
    return Response(orjson.dumps(content), media_type=JSON_TYPE, headers=headers)
