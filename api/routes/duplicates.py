"""/api/duplicates: contacts and accounts that may be duplicates."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from api.dependencies.annotated import Reader, ServicesDep
from api.http.conditions import await_position
from api.http.openapi.examples import EXAMPLE_ID, one_page
from api.http.openapi.records import ResponseModel, page_of
from api.http.openapi.responses import ON_READ, problems, success
from api.http.parameters import Cursor, OneOf, OneOfKinds, invalid_parameter
from api.http.responses import json_response
from readmodels.duplicates import (
    GROUPS_PAGE_DEFAULT,
    GROUPS_PAGE_MAX,
    MEMBERS_SHOWN_MAX,
    REASONS,
    DuplicatesQuery,
    duplicates_page,
)
from runtime import codes

ROUTER = APIRouter(prefix="/api/duplicates", tags=["merge"])

DuplicateKind = Annotated[str, OneOfKinds(tuple(REASONS))]
DuplicateReason = Annotated[
    str, OneOf(tuple(sorted({each for many in REASONS.values() for each in many})))
]

EXAMPLE_GROUP = {
    "reason": "email",
    "key": "ada@example.com",
    "count": 2,
    "members": [{"id": EXAMPLE_ID, "name": "Ada Lovelace", "email": "Ada@example.com"}],
}


class DuplicateGroup(ResponseModel):
    """Entities with a value in common."""

    reason: DuplicateReason
    key: str
    count: int
    members: list[dict[str, Any]]


DUPLICATES_PAGE = page_of(DuplicateGroup, "DuplicatesPage", str)


@ROUTER.get(
    "",
    operation_id="listDuplicates",
    summary="Groups of contacts or accounts with the same e-mail address, phone number or company",
    responses={
        200: success(
            "One page. `key` is the normalised value in common, `count` the size of the group,"
            f" `members` its {MEMBERS_SHOWN_MAX} oldest members as their list shows them.",
            DUPLICATES_PAGE,
            example=one_page(EXAMPLE_GROUP),
        ),
        **problems(codes.INVALID_CURSOR, *ON_READ),
    },
)
async def list_(
    services: ServicesDep,
    caller: Reader,
    _: Annotated[None, Depends(await_position("duplicates", "contacts", "accounts", "members"))],
    kind: Annotated[
        DuplicateKind,
        Query(description="Contacts are compared by e-mail and phone, accounts by company."),
    ],
    reason: Annotated[
        DuplicateReason | None, Query(description="Only groups with this in common.")
    ] = None,
    cursor: Annotated[
        Cursor | None, Query(description="`nextCursor` of the previous page.")
    ] = None,
    page_size: Annotated[
        int, Query(alias="pageSize", ge=1, le=GROUPS_PAGE_MAX, description="Groups per page.")
    ] = GROUPS_PAGE_DEFAULT,
) -> Response:
    """`{items, nextCursor}`."""
    if reason is not None and reason not in REASONS[kind]:
        raise invalid_parameter("reason", f"{kind} are compared by {', '.join(REASONS[kind])}")
    query = DuplicatesQuery(caller.workspace_id, kind, reason, cursor, page_size)
    async with services.reads.workspace(caller.workspace_id) as connection:
        return json_response(await duplicates_page(connection, query))
