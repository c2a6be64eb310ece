"""/api/audit: who changed what, when and from where, over the whole workspace."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from api.entities.routes import ServicesDep
from api.exports.routes import ON_EXPORT, add_download, export_limiter_of, format_of
from api.exports.streaming import ExportRequest, ExportResponse
from api.http.auth import Caller, Permission, require_permission
from api.http.conditions import POSITION_MAX, await_position
from api.http.openapi import EXAMPLE_ID, EXAMPLE_TIME, ON_READ, problems, success
from api.http.parameters import OneOf, When, parse_time, plain
from domain.shared.kinds import AGGREGATES
from projections.audit import ACTION_NAMES
from readmodels.audit import AUDIT_PAGE_DEFAULT, AUDIT_PAGE_MAX, AuditQuery, audit_page
from readmodels.exports import AUDIT_CELLS, Export, Format, audit_export
from readmodels.pool import AsyncConnection
from runtime.patches import JSON_TYPE

ACTOR_MAX_CHARS = 100

ROUTER = APIRouter(prefix="/api/audit", tags=["audit"])

EntityType = Annotated[str, OneOf(tuple(AGGREGATES))]
ActionFilter = Annotated[str, OneOf(ACTION_NAMES)]
ActorId = Annotated[
    str, StringConstraints(min_length=1, max_length=ACTOR_MAX_CHARS), AfterValidator(plain)
]

ENTRY = {
    "position": 7,
    "entityType": "account",
    "entityId": EXAMPLE_ID,
    "action": "update",
    "topic": "account.updated",
    "version": 2,
    "actor": {"type": "api_key", "id": EXAMPLE_ID, "name": "Nightly sync"},
    "occurredAt": EXAMPLE_TIME,
    "recordedAt": EXAMPLE_TIME,
    "ip": "192.0.2.7",
    "userAgent": "curl/8.5.0",
    "command": "changeAccount",
    "commandId": EXAMPLE_ID,
    "changes": [{"field": "nextAction", "before": None, "after": "Send the term sheet"}],
}


class AuditSelection(BaseModel):
    """Filters of the trail; times are those of recording."""

    model_config = ConfigDict(alias_generator=to_camel)

    entity_type: EntityType | None = None
    entity_id: UUID | None = None
    action: ActionFilter | None = None
    actor_id: ActorId | None = None
    since: When | None = Field(default=None, description="From this time on.")
    until: When | None = Field(default=None, description="Before this time; a day is included.")

    def query(self, workspace_id: UUID) -> AuditQuery:
        """What is asked of the read model. Raises 400 (E2031) where a time is not one."""
        return AuditQuery(
            workspace_id=workspace_id,
            entity_type=self.entity_type,
            entity_id=self.entity_id,
            action=self.action,
            actor_id=self.actor_id,
            since=parse_time(self.since, "since", end_of_day=False) if self.since else None,
            until=parse_time(self.until, "until") if self.until else None,
        )


class AuditParameters(AuditSelection):
    """The filters, and which page."""

    cursor: int | None = Field(default=None, ge=0, le=POSITION_MAX)
    page_size: int = Field(default=AUDIT_PAGE_DEFAULT, ge=1, le=AUDIT_PAGE_MAX)

    def query(self, workspace_id: UUID) -> AuditQuery:
        """What is asked of the read model. Raises 400 (E2031) where a time is not one."""
        chosen = super().query(workspace_id)
        return replace(chosen, cursor=self.cursor, limit=self.page_size)


class AuditExportParameters(AuditSelection):
    """The filters, and the order."""

    sort_order: Literal["asc", "desc"] = Field(default="desc", description="Newest first: desc.")


@ROUTER.get(
    "",
    operation_id="listAudit",
    summary="The audit trail of the workspace, newest first",
    responses={
        200: success("One page.", example={"items": [ENTRY], "nextCursor": None}),
        **problems(*ON_READ),
    },
)
async def list_(
    services: ServicesDep,
    caller: Annotated[Caller, Depends(require_permission(Permission.AUDIT))],
    asked: Annotated[AuditParameters, Query()],
    _: Annotated[None, Depends(await_position("audit"))],
) -> Response:
    """`{items, nextCursor}`."""
    query = asked.query(caller.workspace_id)
    async with services.reads.workspace(caller.workspace_id) as connection:
        content = await audit_page(connection, query)
    return Response(content, media_type=JSON_TYPE)


async def export(
    request: Request,
    caller: Annotated[Caller, Depends(require_permission(Permission.AUDIT))],
    asked: Annotated[AuditExportParameters, Query()],
    form: Annotated[Format, Depends(format_of)],
    _: Annotated[None, Depends(await_position("audit"))],
) -> Response:
    """All entries that the filters find, as of one point of the log."""
    query = asked.query(caller.workspace_id)

    async def prepare(connection: AsyncConnection) -> Export:
        return await audit_export(connection, query, form, descending=asked.sort_order == "desc")

    order = ExportRequest(caller.workspace_id, "audit", form, ("audit",), prepare)
    return ExportResponse(export_limiter_of(request), order)


add_download(
    ROUTER,
    export,
    operation_id="exportAudit",
    summary="Export the audit trail that the filters find, as CSV or NDJSON",
    example=",".join(AUDIT_CELLS) + "\n",
    errors=ON_EXPORT,
)
