"""The export of a list: all of its rows as CSV or NDJSON, streamed from one point of the log.

No postponed annotations here: the framework evaluates those of functions within functions.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from api.exports.streaming import ExportLimiter, ExportRequest, ExportResponse
from api.http.auth import Caller, Permission, require_permission
from api.http.conditions import await_position
from api.http.openapi import ON_READ, headers, problems
from api.http.parameters import Selection, query_of, selection_of
from domain.shared.entity import Entity
from readmodels.exports import Export, Format, list_export
from readmodels.lists import ListQuery
from readmodels.pool import AsyncConnection
from readmodels.spec import ListSpec
from runtime import codes
from runtime.codes.code import ErrorCode
from runtime.errors import ApiError

ACCEPT_MAX_CHARS = 1_000
ON_EXPORT = (
    codes.TOO_MANY_EXPORTS,
    codes.TOO_MANY_EXPORTS_OF_WORKSPACE,
    codes.UNSUPPORTED_EXPORT_FORMAT,
    codes.NO_CONSISTENT_SNAPSHOT,
    codes.ENTITIES_PARKED,
    *ON_READ,
)
"""What every export can answer."""
ACCEPTED: Mapping[str, Format] = {
    "text/csv": Format.CSV,
    "application/x-ndjson": Format.NDJSON,
    "text/*": Format.CSV,
    "application/*": Format.NDJSON,
    "*/*": Format.CSV,
}
"""By media range of an Accept header."""


class ExportParameters(Selection):
    """What every export of a list understands."""


async def format_of(
    asked: Annotated[
        Literal["csv", "ndjson"] | None,
        Query(alias="format", description="Instead of the Accept header; CSV by default."),
    ] = None,
    accept: Annotated[str | None, Header(max_length=ACCEPT_MAX_CHARS)] = None,
) -> Format:
    """A dependency: the format asked for. Raises 406 (E2082)."""
    if asked is not None:
        return Format(asked)
    found = preferred(accept or "*/*")
    if found is None:
        raise ApiError(
            codes.UNSUPPORTED_EXPORT_FORMAT, supported=["text/csv", "application/x-ndjson"]
        )
    return found


def preferred(accept: str) -> Format | None:
    """The format that an Accept header (RFC 9110, 12.5.1) likes best; None where it likes none."""
    best, best_weight = None, 0.0
    for part in accept.split(","):
        media_range, *parameters = (each.strip().lower() for each in part.split(";"))
        found, weight = ACCEPTED.get(media_range), _weight(parameters)
        if found is not None and weight > best_weight:
            best, best_weight = found, weight
    return best


def add_export(router: APIRouter, kind: type[Entity], spec: ListSpec, reads: Sequence[str]) -> None:
    """Add GET (and HEAD) <prefix>/export; `reads` are the projections behind the list."""
    model = selection_of(ExportParameters, f"{kind.__name__}Export", kind, spec)
    # Of the past and the trail an export shows nothing.
    projections = tuple(sorted(set(reads) - {"audit"}))

    async def export(
        request: Request,
        caller: Annotated[Caller, Depends(require_permission(Permission.READ))],
        asked: Annotated[ExportParameters, Depends(query_of(model))],
        form: Annotated[Format, Depends(format_of)],
        _: Annotated[None, Depends(await_position(*projections))],
    ) -> Response:
        query = ListQuery(
            caller.workspace_id,
            filters=asked.filters(),
            search=asked.search or None,
            sort_by=asked.sort_by,
            descending=asked.sort_order == "desc",
            include_contacts=getattr(asked, "include_contacts", False),
        )

        async def prepare(connection: AsyncConnection) -> Export:
            return await list_export(connection, spec, query, form)

        order = ExportRequest(caller.workspace_id, spec.plural, form, projections, prepare)
        return ExportResponse(export_limiter_of(request), order)

    add_download(
        router,
        export,
        operation_id=f"export{kind.PLURAL.capitalize()}",
        summary=f"Export all {kind.PLURAL} that the filters find, as CSV or NDJSON",
        example=",".join(name for name in spec.items if name != "customFields") + "\n",
        errors=(codes.TOO_MANY_COLUMNS, *ON_EXPORT),
    )


def add_download(
    router: APIRouter,
    endpoint: Any,
    *,
    operation_id: str,
    summary: str,
    example: str,
    errors: Sequence[ErrorCode],
) -> None:
    """Add GET and HEAD /export, described as what streams CSV or NDJSON."""
    told = {
        "Annals-Position": "The log position as of which all of it is told.",
        "Content-Disposition": "A name for the file.",
    }
    described = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in told.items()
    }
    ok = {
        "description": "All rows, as of one point of the log; a stream that breaks off is short.",
        "headers": {**described, **headers()},
        "content": {
            "text/csv": {"example": example, "schema": {"type": "string"}},
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    }
    common: dict[str, Any] = {"operation_id": operation_id, "response_class": Response}
    router.add_api_route(
        "/export",
        endpoint,
        methods=["GET"],
        summary=summary,
        responses={200: ok, **problems(*errors)},
        **common,
    )
    # The same operation for whoever wants the head alone: its position, before it is fetched.
    router.add_api_route("/export", endpoint, methods=["HEAD"], include_in_schema=False, **common)


def export_limiter_of(request: Request) -> ExportLimiter:
    """Where exports of this process are streamed."""
    desk: ExportLimiter = request.app.state.services.exports
    return desk


def _weight(parameters: Sequence[str]) -> float:
    """The `q` of a media range; 0 where it is no number."""
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, float(value))
            except ValueError:
                return 0.0
    return 1.0
