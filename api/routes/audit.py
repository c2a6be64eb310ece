"""/api/audit: who changed what, when and from where, in the whole workspace."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from api.dependencies.annotated import Auditor, ServicesDep
from api.entities.export import ON_EXPORT, add_export_route
from api.exports.formats import requested_format
from api.exports.streaming import ExportRequest, ExportResponse
from api.http.conditions import await_readable
from api.http.openapi.examples import EXAMPLE_EVENT, EXAMPLE_ID, one_page
from api.http.openapi.records import AUDIT_PAGE
from api.http.openapi.responses import ON_READ, problems, success
from api.http.parameters import OneOf, OneOfKinds, TimeText, parse_time, reject_control_characters
from api.http.responses import json_response
from domain.shared.kinds import AGGREGATES
from eventlog.reading.actions import ACTION_NAMES
from eventlog.reading.positions import POSITION_MAX
from readmodels.audit import AUDIT_PAGE_DEFAULT, AUDIT_PAGE_MAX, AuditQuery, audit_page
from readmodels.exports import AUDIT_CELLS, Export, Format, Snapshot, audit_export

ACTOR_MAX_CHARS = 100

ROUTER = APIRouter(prefix="/api/audit", tags=["audit"])

EntityType = Annotated[str, OneOfKinds(tuple(AGGREGATES))]
ActionFilter = Annotated[str, OneOf(ACTION_NAMES)]
ActorId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=ACTOR_MAX_CHARS),
    AfterValidator(reject_control_characters),
]

EXAMPLE_ENTRY = {
    **EXAMPLE_EVENT,
    "entityType": "account",
    "entityId": EXAMPLE_ID,
    "accountId": EXAMPLE_ID,
    "topic": "account.updated",
    "ip": "192.0.2.7",
    "userAgent": "curl/8.5.0",
    "command": "changeAccount",
    "correlationId": EXAMPLE_ID,
}


class AuditSelection(BaseModel):
    """The filters of the audit trail; times are compared with `recordedAt`."""

    model_config = ConfigDict(alias_generator=to_camel)

    entity_type: EntityType | None = None
    entity_id: UUID | None = None
    action: ActionFilter | None = None
    actor_id: ActorId | None = None
    key_id: UUID | None = Field(default=None, description="The API key that was used.")
    since: TimeText | None = Field(default=None, description="Recorded at this time or later.")
    until: TimeText | None = Field(
        default=None, description="Recorded before this time, or until the end of this day."
    )

    def query(self, workspace_id: UUID) -> AuditQuery:
        """Return the query of the read model. Raises 400 (E2031) if a time is not valid."""
        return AuditQuery(
            workspace_id=workspace_id,
            entity_type=self.entity_type,
            entity_id=self.entity_id,
            action=self.action,
            actor_id=self.actor_id,
            key_id=self.key_id,
            since=parse_time(self.since, "since", end_of_day=False) if self.since else None,
            until=parse_time(self.until, "until") if self.until else None,
        )


class AuditParameters(AuditSelection):
    """The filters and the page."""

    cursor: int | None = Field(default=None, ge=0, le=POSITION_MAX)
    page_size: int = Field(default=AUDIT_PAGE_DEFAULT, ge=1, le=AUDIT_PAGE_MAX)

    def query(self, workspace_id: UUID) -> AuditQuery:
        """Return the query of the read model. Raises 400 (E2031) if a time is not valid."""
        query = super().query(workspace_id)
        return replace(query, cursor=self.cursor, limit=self.page_size)


class AuditExportParameters(AuditSelection):
    """The filters and the order."""

    sort_order: Literal["asc", "desc"] = Field(default="desc", description="Newest first: desc.")


@ROUTER.get(
    "",
    operation_id="listAudit",
    summary="The audit trail of the workspace, newest first",
    responses={
        200: success("One page.", AUDIT_PAGE, example=one_page(EXAMPLE_ENTRY)),
        **problems(*ON_READ),
    },
)
async def list_(
    services: ServicesDep,
    caller: Auditor,
    parameters: Annotated[AuditParameters, Query()],
    _: Annotated[None, Depends(await_readable)],
) -> Response:
    """`{items, nextCursor}`."""
    query = parameters.query(caller.workspace_id)
    async with services.reads.log(caller.workspace_id) as (connection, upto):
        return json_response(await audit_page(connection, query, upto))


async def export(
    services: ServicesDep,
    caller: Auditor,
    parameters: Annotated[AuditExportParameters, Query()],
    export_format: Annotated[Format, Depends(requested_format)],
    _: Annotated[None, Depends(await_readable)],
) -> Response:
    """All entries that match the filters, as of one log position."""
    query = parameters.query(caller.workspace_id)
    descending = parameters.sort_order == "desc"

    async def prepare(snapshot: Snapshot) -> Export:
        return await audit_export(
            snapshot.connection, query, export_format, snapshot.position, descending=descending
        )

    request = ExportRequest(caller.workspace_id, "audit", export_format, (), prepare)
    return ExportResponse(services.exports, request)


add_export_route(
    ROUTER,
    export,
    operation_id="exportAudit",
    summary="Export the entries of the audit trail that match the filters, as CSV or NDJSON",
    example=",".join(AUDIT_CELLS) + "\n",
    errors=ON_EXPORT,
)
