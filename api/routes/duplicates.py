"""/api/duplicates: contacts and accounts that may be the same."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from api.entities.routes import ServicesDep
from api.http.auth import Caller, Permission, require_permission
from api.http.conditions import await_position
from api.http.openapi import EXAMPLE_ID, ON_READ, problems, success
from api.http.parameters import Cursor, OneOf, invalid_parameter
from readmodels.duplicates import (
    GROUPS_PAGE_DEFAULT,
    GROUPS_PAGE_MAX,
    MEMBERS_SHOWN_MAX,
    REASONS,
    DuplicatesQuery,
    duplicates_page,
)
from runtime import codes
from runtime.patches import JSON_TYPE

ROUTER = APIRouter(prefix="/api/duplicates", tags=["merge"])

DuplicateKind = Annotated[str, OneOf(tuple(REASONS))]
DuplicateReason = Annotated[
    str, OneOf(tuple(sorted({each for many in REASONS.values() for each in many})))
]

GROUP = {
    "reason": "email",
    "key": "ada@example.com",
    "count": 2,
    "members": [{"id": EXAMPLE_ID, "name": "Ada Lovelace", "email": "Ada@example.com"}],
}


@ROUTER.get(
    "",
    operation_id="listDuplicates",
    summary="Groups of contacts or accounts that have an e-mail, a phone or a company in common",
    responses={
        200: success(
            "One page. `key` is normalised; members are as their list shows them, the"
            f" {MEMBERS_SHOWN_MAX} oldest; `count` is how many there are.",
            example={"items": [GROUP], "nextCursor": None},
        ),
        **problems(codes.INVALID_CURSOR, *ON_READ),
    },
)
async def list_(
    services: ServicesDep,
    caller: Annotated[Caller, Depends(require_permission(Permission.READ))],
    _: Annotated[None, Depends(await_position("duplicates", "contacts", "accounts", "members"))],
    kind: Annotated[
        DuplicateKind, Query(description="Contacts by email and phone, accounts by company.")
    ],
    reason: Annotated[DuplicateReason | None, Query(description="Only groups of this.")] = None,
    cursor: Annotated[Cursor | None, Query(description="`nextCursor` of the page before.")] = None,
    page_size: Annotated[
        int, Query(alias="pageSize", ge=1, le=GROUPS_PAGE_MAX, description="Groups.")
    ] = GROUPS_PAGE_DEFAULT,
) -> Response:
    """`{items, nextCursor}`."""
    if reason is not None and reason not in REASONS[kind]:
        raise invalid_parameter("reason", f"{kind} are compared by {', '.join(REASONS[kind])}")
    query = DuplicatesQuery(caller.workspace_id, kind, reason, cursor, page_size)
    async with services.reads.workspace(caller.workspace_id) as connection:
        content = await duplicates_page(connection, query)
    return Response(content, media_type=JSON_TYPE)
