"""/api/leads, with updates of the status of one or many leads, and conversion."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import Depends, Response
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from api.dependencies.annotated import (
    EntityId,
    Executor,
    JsonBody,
    ServicesDep,
    Versions,
    Writer,
)
from api.dependencies.request import require_write_capacity
from api.dependencies.services import Services
from api.entities.resource import example_response
from api.entities.routes import entity_routes
from api.http.bodies import RequestModel, parse_body
from api.http.conditions import reject_if_match, with_if_match
from api.http.openapi.bodies import REF, add_body_model, either, request_body
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.models import Problem, entity_model
from api.http.openapi.records import ResponseModel
from api.http.openapi.responses import (
    ON_BODY,
    ON_FIELDS,
    ON_VERSION,
    ON_WRITE,
    problems,
    success,
)
from api.http.problems import PROBLEM, WITH_SUCCESS_FLAG
from api.http.responses import json_response
from commands.leads import (
    LEADS_AT_ONCE_MAX,
    ConversionOverrides,
    StatusUpdates,
    StatusUpdatesRefused,
)
from domain.account import Account
from domain.contact import Contact
from domain.lead import Lead, LeadStatus
from domain.opportunity import Opportunity
from domain.shared.refusals import (
    IsDeleted,
    NotFound,
    Refusal,
    StatusUnchanged,
    TransitionRefused,
    WasMerged,
)
from eventlog.scope import Scope
from replay.as_of import representation
from runtime import codes
from runtime.errors import ApiError, as_api_error
from runtime.patches import JSON_TYPE

EXAMPLE: dict[str, Any] = {
    "name": "Ada Lovelace",
    "company": "Analytical Engines",
    "source": "website",
}
EXAMPLE_UPDATE = {"leadId": EXAMPLE_ID, "status": "contacted"}
EXAMPLE_UPDATED = {"id": EXAMPLE_ID, "status": "contacted", "status_changed_at": EXAMPLE_TIME}

ROUTER = entity_routes(Lead, example=EXAMPLE)


LeadIds = Annotated[list[UUID], Field(min_length=1, max_length=LEADS_AT_ONCE_MAX)]

REASONS: Mapping[type[Refusal], str] = MappingProxyType(
    {
        NotFound: "not found",
        IsDeleted: "deleted",
        WasMerged: "merged",
        StatusUnchanged: "same status",
        TransitionRefused: "transition not allowed",
    }
)
"""Why a lead was not updated, in a few words."""


class LeadStatusUpdate(RequestModel):
    """A new status for one lead or for many."""

    model_config = ConfigDict(json_schema_extra=either("leadId", "leadIds"))

    status: LeadStatus
    lead_id: UUID | None = None
    lead_ids: LeadIds | None = None
    atomic: bool = Field(default=False, description="Update all of them or none.")

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.lead_id is None) == (self.lead_ids is None):
            raise ValueError("either leadId or leadIds is needed")
        return self


class LeadStatusChange(RequestModel):
    """A new status for the lead that the path names."""

    status: LeadStatus


class LeadConversion(RequestModel):
    """Values that replace those derived from the lead; null leaves a field unset."""

    account: dict[str, Any] = Field(default={}, description="Fields of the account.")
    contact: dict[str, Any] = Field(default={}, description="Fields of the contact.")
    opportunity: dict[str, Any] = Field(default={}, description="Fields of the opportunity.")
    account_id: UUID | None = Field(
        default=None, description="An existing account to use instead of creating one."
    )


class UpdatedLead(BaseModel):
    """A lead with its new status."""

    id: UUID
    status: LeadStatus
    status_changed_at: datetime


class LeadStatusUpdated(BaseModel):
    """One lead was updated."""

    success: Literal[True]
    lead: UpdatedLead


class LeadNotUpdated(ResponseModel):
    """Why a lead was not updated; further members carry details."""

    model_config = ConfigDict(extra="allow")

    lead_id: UUID
    code: str
    message: str


class LeadsNotUpdated(Problem):
    """A problem document: no lead was updated."""

    success: Literal[False]
    error: str
    updated: int
    failed: int
    message: str
    leads: list[UpdatedLead]
    errors: list[LeadNotUpdated]  # type: ignore[assignment]


class LeadStatusesUpdated(BaseModel):
    """Some leads were updated, or all of them."""

    success: bool = Field(description="Whether all of them were updated.")
    updated: int
    failed: int
    message: str
    leads: list[UpdatedLead]
    errors: list[LeadNotUpdated]


CONVERTED = create_model(
    "ConvertedLead",
    __base__=ResponseModel,
    __doc__="A lead and the entities that it became.",
    lead=(entity_model(Lead), ...),
    account=(entity_model(Account), ...),
    contact=(entity_model(Contact), ...),
    opportunity=(entity_model(Opportunity), ...),
)
EXAMPLE_CONVERTED = {
    "lead": example_response(Lead, {**EXAMPLE, "status": "won"}),
    "account": example_response(Account, {"company": "Analytical Engines", "type": "customer"}),
    "contact": example_response(Contact, {"name": "Ada Lovelace"}),
    "opportunity": example_response(Opportunity, {"name": "Analytical Engines"}),
}


add_body_model(LeadsNotUpdated)
ON_UPDATES = problems(
    *(*ON_BODY, *ON_WRITE, *ON_FIELDS, codes.NOT_FOUND, codes.IS_DELETED),
    *(codes.TRANSITION_REFUSED, codes.STATUS_UNCHANGED, codes.NOTHING_UPDATED, *ON_VERSION),
)
ON_UPDATES[409]["content"][PROBLEM]["schema"] = {
    "anyOf": [{"$ref": REF.format(model=each)} for each in ("Problem", "LeadsNotUpdated")]
}


@ROUTER.post(
    "/update-status",
    operation_id="updateLeadStatus",
    summary="Set the status of one lead or of many",
    responses={
        200: success(
            "With `leadId`: `{success, lead}`. With `leadIds`: `leads` were updated; if others were"
            " not, `success` is false and `errors` says why, by error code.",
            LeadStatusUpdated | LeadStatusesUpdated,
            *("ETag", "Annals-Position"),
            example={"success": True, "lead": EXAMPLE_UPDATED},
        ),
        **ON_UPDATES,
    },
    openapi_extra={
        **request_body(
            {JSON_TYPE: (LeadStatusUpdate, {"leadId": EXAMPLE_ID, "status": "contacted"})}
        ),
        **WITH_SUCCESS_FLAG,
    },
    dependencies=[Depends(require_write_capacity)],
)
def update_status(
    services: ServicesDep, _caller: Writer, versions: Versions, body: JsonBody, executor: Executor
) -> Response:
    """Problem documents have the member `success: false`. If-Match is refused with `leadIds`."""

    def act(scope: Scope) -> Response:
        request = parse_body(LeadStatusUpdate, body)
        if request.lead_id is not None:
            return _update_one(services, scope, request.lead_id, versions, request.status)
        reject_if_match(versions)
        try:
            updates = services.leads.update_statuses(
                scope, request.lead_ids or [], request.status.value, atomic=request.atomic
            )
        except StatusUpdatesRefused as refused:
            raise _nothing_updated(refused.updates, request.status) from None
        content = _updates_as_json(updates, request.status)
        return json_response(content, position=updates.position)

    return executor.run(act, body)


@ROUTER.post(
    "/{id:uuid}/update-status",
    operation_id="updateLeadStatusChange",
    summary="Set the status of one lead",
    responses={
        200: success(
            "`{success, lead}`, as POST /api/leads/update-status with `leadId`.",
            LeadStatusUpdated,
            *("ETag", "Annals-Position"),
            example={"success": True, "lead": EXAMPLE_UPDATED},
        ),
        **problems(
            *(*ON_BODY, *ON_WRITE, *ON_FIELDS, codes.NOT_FOUND, codes.IS_DELETED),
            *(codes.TRANSITION_REFUSED, codes.STATUS_UNCHANGED, *ON_VERSION),
        ),
    },
    openapi_extra={
        **request_body({JSON_TYPE: (LeadStatusChange, {"status": "contacted"})}),
        **WITH_SUCCESS_FLAG,
    },
    dependencies=[Depends(require_write_capacity)],
)
def update_status_of_lead(
    lead_id: EntityId,
    services: ServicesDep,
    _caller: Writer,
    versions: Versions,
    body: JsonBody,
    executor: Executor,
) -> Response:
    """Problem documents of this route have the member `success: false`."""

    def act(scope: Scope) -> Response:
        status = parse_body(LeadStatusChange, body).status
        return _update_one(services, scope, lead_id, versions, status)

    return executor.run(act, body)


@ROUTER.post(
    "/{id:uuid}/convert",
    operation_id="convertLead",
    summary="Convert a lead into an account, a contact and an opportunity; the lead becomes won",
    responses={
        200: success(
            "The lead and the entities created from it.",
            CONVERTED,
            *("ETag", "Annals-Position"),
            example=EXAMPLE_CONVERTED,
        ),
        **problems(
            *(*ON_BODY, *ON_WRITE, *ON_FIELDS, *ON_VERSION, codes.NOT_FOUND, codes.IS_DELETED),
            *(codes.TRANSITION_REFUSED, codes.ALREADY_CONVERTED, codes.ACCOUNT_UNAVAILABLE),
        ),
    },
    openapi_extra=request_body({JSON_TYPE: (LeadConversion, {"account": {"priority": "high"}})}),
    dependencies=[Depends(require_write_capacity)],
)
def convert(
    lead_id: EntityId,
    services: ServicesDep,
    _caller: Writer,
    versions: Versions,
    body: JsonBody,
    executor: Executor,
) -> Response:
    """One command: `POST /api/undo` with its `commandId` undoes the whole conversion."""

    def act(scope: Scope) -> Response:
        request = parse_body(LeadConversion, body)
        overrides = ConversionOverrides(
            request.account, request.contact, request.opportunity, request.account_id
        )
        convert = partial(services.leads.convert, scope, lead_id, overrides)
        done = with_if_match(versions, lambda version: convert(expected_version=version))
        entities = (done.lead, done.account, done.contact, done.opportunity)
        content = {each.KIND: representation(each) for each in entities}
        return json_response(content, version=done.lead.version, position=done.position)

    return executor.run(act, body)


def _update_one(
    services: Services,
    scope: Scope,
    lead_id: UUID,
    versions: list[int] | None,
    status: LeadStatus,
) -> Response:
    update = partial(
        services.commands.act,
        scope,
        Lead,
        lead_id,
        lambda lead, at: lead.update_status(status.value, at=at),
    )
    outcome = with_if_match(versions, lambda version: update(expected_version=version))
    assert isinstance(outcome.entity, Lead)
    content = {"success": True, "lead": _updated_as_json(outcome.entity)}
    return json_response(content, version=outcome.entity.version, position=outcome.position)


def _updated_as_json(lead: Lead) -> dict[str, Any]:
    return {"id": lead.id, "status": lead.status, "status_changed_at": lead.status_changed_at}


def _updates_as_json(updates: StatusUpdates, status: LeadStatus) -> dict[str, Any]:
    updated, failed = len(updates.updated), len(updates.refused)
    return {
        "success": not failed,
        "updated": updated,
        "failed": failed,
        "message": _message(updated, updates.refused.values(), status),
        "leads": [_updated_as_json(lead) for lead in updates.updated],
        "errors": [_error_as_json(lead_id, each) for lead_id, each in updates.refused.items()],
    }


def _message(updated: int, refused: Collection[Refusal], status: LeadStatus) -> str:
    """`3 leads updated to qualified` or `2 leads updated, 1 failed (not found)`."""
    leads = f"{updated} {'lead' if updated == 1 else 'leads'} updated"
    if not refused:
        return f"{leads} to {status.value}"
    reasons = dict.fromkeys(REASONS.get(type(each), "refused") for each in refused)
    return f"{leads}, {len(refused)} failed ({', '.join(reasons)})"


def _error_as_json(lead_id: UUID, refusal: Refusal) -> dict[str, Any]:
    error = as_api_error(refusal)
    return {
        **error.facts,
        "leadId": str(lead_id),
        "code": error.code.code,
        "message": error.detail or error.code.title,
    }


def _nothing_updated(updates: StatusUpdates, status: LeadStatus) -> ApiError:
    error = ApiError(codes.NOTHING_UPDATED)
    refused = _updates_as_json(StatusUpdates(refused=updates.refused), status)
    error.facts |= {**refused, "message": codes.NOTHING_UPDATED.title}
    return error
