"""The export of a list: all of its rows as CSV or NDJSON, streamed from one log position.

No postponed annotations here: the framework evaluates those of functions within functions.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from api.dependencies.annotated import Reader, ServicesDep
from api.exports.formats import requested_format
from api.exports.streaming import ExportRequest, ExportResponse
from api.http.conditions import await_position
from api.http.openapi.headers import described_headers
from api.http.openapi.responses import ON_READ, problems, text
from api.http.parameters import Selection, parse_query, selection_model
from domain.shared.entity import Entity
from readmodels.exports import Export, Format, Snapshot, list_export
from readmodels.lists import ListQuery
from readmodels.spec import ListSpec
from runtime import codes
from runtime.codes.code import ErrorCode

ON_EXPORT = (
    codes.TOO_MANY_EXPORTS,
    codes.TOO_MANY_EXPORTS_OF_WORKSPACE,
    codes.UNSUPPORTED_EXPORT_FORMAT,
    codes.NO_CONSISTENT_SNAPSHOT,
    codes.ENTITIES_PARKED,
    *ON_READ,
)
"""Errors of every export."""


class ExportParameters(Selection):
    """The query parameters of every export of a list."""


def add_list_export(
    router: APIRouter, kind: type[Entity], spec: ListSpec, reads: Sequence[str]
) -> None:
    """Add GET (and HEAD) <prefix>/export; `reads` are the projections behind the list."""
    model = selection_model(ExportParameters, f"{kind.__name__}Export", kind, spec)

    async def export(
        services: ServicesDep,
        caller: Reader,
        parameters: Annotated[ExportParameters, Depends(parse_query(model))],
        export_format: Annotated[Format, Depends(requested_format)],
        _: Annotated[None, Depends(await_position(*reads))],
    ) -> Response:
        query = ListQuery(
            caller.workspace_id,
            filters=parameters.filters(),
            search=parameters.search or None,
            sort_by=parameters.sort_by,
            descending=parameters.sort_order == "desc",
            include_contacts=getattr(parameters, "include_contacts", False),
        )

        async def prepare(snapshot: Snapshot) -> Export:
            return await list_export(snapshot.connection, spec, query, export_format)

        request = ExportRequest(caller.workspace_id, spec.plural, export_format, reads, prepare)
        return ExportResponse(services.exports, request)

    add_export_route(
        router,
        export,
        operation_id=f"export{kind.PLURAL.capitalize()}",
        summary=f"Export all {kind.PLURAL} that match the filters, as CSV or NDJSON",
        example=",".join(name for name in spec.items if name != "customFields") + "\n",
        errors=(codes.TOO_MANY_COLUMNS, *ON_EXPORT),
    )


def add_export_route(
    router: APIRouter,
    endpoint: Any,
    *,
    operation_id: str,
    summary: str,
    example: str,
    errors: Sequence[ErrorCode],
) -> None:
    """Add GET and HEAD /export, described as a stream of CSV or NDJSON."""
    ok = text(
        "All rows as of one log position. An aborted stream lacks its last chunk.",
        {"text/csv": example, "application/x-ndjson": "{}\n"},
    )
    ok["headers"] |= described_headers("Annals-Position", "Content-Disposition")
    common: dict[str, Any] = {"operation_id": operation_id, "response_class": Response}
    router.add_api_route(
        "/export",
        endpoint,
        methods=["GET"],
        summary=summary,
        responses={200: ok, **problems(*errors)},
        **common,
    )
    # HEAD returns the position without the rows.
    router.add_api_route("/export", endpoint, methods=["HEAD"], include_in_schema=False, **common)
