"""/api/audit: who changed what, when and from where, over the whole workspace."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from api.auth import Caller, Permission, may
from api.bodies import JSON_TYPE
from api.conditions import POSITION_MAX, await_position
from api.description import EXAMPLE_ID, EXAMPLE_TIME, ON_READ, problems, success
from api.entity_routes import ServicesOf
from api.parameters import OneOf, When, parse_time, plain
from domain.kinds import AGGREGATES, EVENTS
from projections.audit import ACTION_NAMES, action_of
from readmodels.audit import AUDIT_PAGE_DEFAULT, AUDIT_PAGE_MAX, AuditQuery, audit_page

ACTOR_MAX_CHARS = 100

ROUTER = APIRouter(prefix="/api/audit", tags=["audit"])

EntityType = Annotated[str, OneOf(tuple(AGGREGATES))]
Action = Annotated[str, OneOf(tuple(sorted({*ACTION_NAMES, *map(action_of, EVENTS)})))]
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


class AuditParameters(BaseModel):
    """Filters of the trail; times are those of recording."""

    model_config = ConfigDict(alias_generator=to_camel)

    entity_type: EntityType | None = None
    entity_id: UUID | None = None
    action: Action | None = None
    actor_id: ActorId | None = None
    since: When | None = Field(default=None, description="From this time on.")
    until: When | None = Field(default=None, description="Before this time; a day is included.")
    cursor: int | None = Field(default=None, ge=0, le=POSITION_MAX)
    page_size: int = Field(default=AUDIT_PAGE_DEFAULT, ge=1, le=AUDIT_PAGE_MAX)

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
            cursor=self.cursor,
            limit=self.page_size,
        )


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
    services: ServicesOf,
    caller: Annotated[Caller, Depends(may(Permission.AUDIT))],
    asked: Annotated[AuditParameters, Query()],
    _: Annotated[None, Depends(await_position("audit"))],
) -> Response:
    """`{items, nextCursor}`."""
    query = asked.query(caller.workspace_id)
    async with services.reads.workspace(caller.workspace_id) as connection:
        content = await audit_page(connection, query)
    return Response(content, media_type=JSON_TYPE)
