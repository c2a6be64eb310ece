"""/api/imports: hand in a file, say what its columns are, see what would come of it, start it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.dependencies.annotated import EntityId, Executor, ServicesDep, Versions, Writer
from api.dependencies.idempotency import REPLAYED
from api.dependencies.request import command_scope, require_write_capacity
from api.http.auth import Caller
from api.http.bodies import Body, parse_body, require_body
from api.http.conditions import await_position, with_if_match
from api.http.openapi.bodies import request_body
from api.http.openapi.responses import (
    ON_BODY,
    ON_FIELDS,
    ON_READ,
    ON_VERSION,
    ON_WRITE,
    problems,
    success,
)
from api.http.parameters import OneOf
from api.http.responses import COMMAND, POSITION, etag, json_response
from api.http.uploads import (
    CSV_TYPE,
    FILE_PART,
    FORM_TYPE,
    Received,
    charset_of,
    plain_name,
    receive_file,
)
from api.jobs.import_answers import (
    EXAMPLE_FAILED,
    EXAMPLE_FINDING,
    EXAMPLE_IMPORT,
    EXAMPLE_PREVIEW,
    PREVIEW_ROWS_DEFAULT,
    ROWS_SHOWN,
    ImportChange,
    changed,
    failed_rows,
    import_as_shown,
    shown_preview,
)
from api.jobs.responses import JOB_ACCEPTED, job_accepted
from commands.importing.commands import Looked
from commands.importing.options import IMPORTABLE
from commands.jobs.requests import JobOutcome
from commands.permissions import Permission, write_permission
from eventlog.scope import Scope
from runtime import codes
from runtime.patches import JSON_TYPE
from runtime.work.imports import READING

LATEST = 100
FINDINGS_PAGE_DEFAULT = 100
FINDINGS_PAGE_MAX = 1_000
READS = ("accounts", "contacts", "members")

ROUTER = APIRouter(prefix="/api/imports", tags=["imports"])

Waits = Annotated[None, Depends(await_position())]
"""What is kept of an import is read as it is; nothing has to be waited for."""
Delimiter = Annotated[str | None, Query(min_length=1, max_length=1)]
EncodingName = Annotated[str | None, Query(min_length=1, max_length=40)]

ON_FILE = (
    *(codes.IMPORT_EMPTY, codes.IMPORT_TOO_LARGE, codes.NOT_A_TABLE, codes.WRONG_ENCODING),
    *(codes.IMPORT_OPTIONS, codes.WRONG_FORM, codes.UNSUPPORTED_MEDIA_TYPE, codes.BODY_TIMED_OUT),
)
ON_START = (codes.IMPORT_UNDER_WAY, codes.IMPORT_OPTIONS, codes.NOT_A_TABLE, codes.NOT_FOUND)
FILE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            CSV_TYPE: {"schema": {"type": "string"}, "example": "company,type\nAcme,customer\n"},
            FORM_TYPE: {
                "schema": {
                    "type": "object",
                    "required": [FILE_PART],
                    "properties": {FILE_PART: {"type": "string", "format": "binary"}},
                },
                "example": {FILE_PART: "company,type\nAcme,customer\n"},
            },
        },
    }
}


@ROUTER.post(
    "",
    operation_id="handInImport",
    summary="Hand in a CSV file; its columns get the fields that they probably are",
    status_code=201,
    responses={
        201: success(
            "Handed in.", None, *("ETag", "Location", "Annals-Position"), example=EXAMPLE_IMPORT
        ),
        **problems(codes.NOT_IMPORTABLE, *ON_FILE, *ON_WRITE),
    },
    openapi_extra=FILE_BODY,
    dependencies=[Depends(require_write_capacity)],
)
async def hand_in(
    request: Request,
    services: ServicesDep,
    caller: Writer,
    executor: Executor,
    kind: Annotated[str, OneOf(tuple(IMPORTABLE))],
    file_name: Annotated[str | None, Query(alias="fileName", max_length=200)] = None,
    encoding: EncodingName = None,
    delimiter: Delimiter = None,
) -> Response:
    """Nothing is imported yet. Encoding and delimiter are found out where they are not named."""
    _require(caller, kind)
    imports, scope = services.imports, command_scope(request, caller)
    import_id = await run_in_threadpool(imports.begin, scope, kind, plain_name(file_name))
    is_kept = False
    try:
        received = await _receive(request, services, scope, import_id, 1)
        name = plain_name(file_name or received.name)
        looked = await run_in_threadpool(
            imports.look,
            scope,
            import_id,
            1,
            name,
            received.size_bytes,
            encoding=encoding or charset_of(request),
            delimiter=delimiter,
        )

        def act(scope: Scope) -> Response:
            stored = imports.hand_in(scope, kind, looked)
            headers = {"Location": f"/api/imports/{import_id}", "ETag": etag(stored.version)}
            return _answer(
                services, scope, import_as_shown(stored, None, services.settings), 201, headers
            )

        asked = [kind, name, encoding, delimiter, received.digest.hex()]
        response = await run_in_threadpool(executor.run, act, Body(CSV_TYPE, orjson.dumps(asked)))
        is_kept = REPLAYED not in response.headers
        return response
    finally:
        if not is_kept:
            await run_in_threadpool(imports.give_up, scope, import_id, 1)


@ROUTER.get(
    "",
    operation_id="listImports",
    summary="The imports that were handed in last",
    responses={200: success("The latest.", example={"items": [EXAMPLE_IMPORT]}), **problems()},
)
def list_(request: Request, services: ServicesDep, caller: Writer, _: Waits) -> Response:
    """As long as they are kept; without the state of their jobs, which `jobId` names."""
    scope = command_scope(request, caller)
    latest = services.imports.latest(scope, LATEST)
    items = [import_as_shown(each, None, services.settings) for each in latest]
    return Response(orjson.dumps({"items": items}), media_type=JSON_TYPE)


@ROUTER.get(
    "/{id}",
    operation_id="getImport",
    summary="An import: its columns, what they become, and how far its job is",
    responses={
        200: success("There it is.", None, "ETag", example=EXAMPLE_IMPORT),
        **problems(codes.NOT_FOUND),
    },
)
def get(
    request: Request, entity_id: EntityId, services: ServicesDep, caller: Writer, _: Waits
) -> Response:
    """As long as it is kept."""
    stored, job = services.imports.get(command_scope(request, caller), entity_id)
    return json_response(
        orjson.dumps(import_as_shown(stored, job, services.settings)), version=stored.version
    )


@ROUTER.patch(
    "/{id}",
    operation_id="changeImport",
    summary="Say what becomes of the columns, which rows are the same, and what becomes of those",
    responses={
        200: success("Changed.", None, "ETag", "Annals-Position", example=EXAMPLE_IMPORT),
        **problems(
            *(codes.NOT_FOUND, codes.IMPORT_STARTED, codes.IMPORT_GONE),
            *(*ON_FILE, *ON_BODY, *ON_FIELDS, *ON_VERSION, *ON_WRITE),
        ),
    },
    openapi_extra=request_body(
        {JSON_TYPE: (ImportChange, {"dedupeBy": ["company"], "mode": "update"})}
    ),
    dependencies=[Depends(require_write_capacity)],
)
async def change(
    request: Request,
    entity_id: EntityId,
    services: ServicesDep,
    caller: Writer,
    versions: Versions,
    given: Annotated[Body, Depends(require_body(JSON_TYPE))],
    executor: Executor,
) -> Response:
    """Before it is started. What is not named stays as it is; a column set to null becomes what was
    proposed. Read in another encoding or by another delimiter, fields are proposed anew."""
    asked = parse_body(ImportChange, given)
    looked: Looked | None = None
    if asked.encoding or asked.delimiter:
        scope = command_scope(request, caller)
        looked = await run_in_threadpool(
            services.imports.look_again,
            scope,
            entity_id,
            encoding=asked.encoding,
            delimiter=asked.delimiter,
        )

    def act(scope: Scope) -> Response:
        stored = with_if_match(
            versions,
            lambda version: services.imports.change(
                scope,
                entity_id,
                lambda before: changed(before, asked),
                looked,
                expected_version=version,
            ),
        )
        headers = {"ETag": etag(stored.version)}
        return _answer(
            services, scope, import_as_shown(stored, None, services.settings), 200, headers
        )

    return await run_in_threadpool(executor.run, act, given)


@ROUTER.get(
    "/{id}/preview",
    operation_id="previewImport",
    summary="What would come of the file: rows created, updated, skipped, failed",
    responses={
        200: success("Nothing was written.", example=EXAMPLE_PREVIEW),
        **problems(
            *(codes.NOT_FOUND, codes.IMPORT_OPTIONS, codes.NOT_A_TABLE, codes.IMPORT_GONE),
            *ON_READ,
        ),
    },
)
def preview(
    request: Request,
    entity_id: EntityId,
    services: ServicesDep,
    caller: Writer,
    _: Annotated[None, Depends(await_position(*READS))],
    rows: Annotated[int, Query(ge=1)] = PREVIEW_ROWS_DEFAULT,
) -> Response:
    """Of the first `rows` rows (ANNALS_IMPORT_PREVIEW_ROWS_MAX at the most), decided as the job
    would decide them now; `isComplete` where that is all of them."""
    scope = command_scope(request, caller)
    most = min(rows, services.settings.import_preview_rows_max)
    found = services.imports.preview(scope, READING, entity_id, rows_max=most, shown_max=ROWS_SHOWN)
    stored, _job = services.imports.get(scope, entity_id)
    return Response(orjson.dumps(shown_preview(found, stored)), media_type=JSON_TYPE)


@ROUTER.post(
    "/{id}/start",
    operation_id="startImport",
    summary="Import the rows, as a job; by the import's id all of it can be undone",
    status_code=202,
    responses={202: JOB_ACCEPTED, **problems(codes.IMPORT_STARTED, *ON_START, *ON_WRITE)},
    dependencies=[Depends(require_write_capacity)],
)
def start(
    request: Request, entity_id: EntityId, services: ServicesDep, caller: Writer, executor: Executor
) -> Response:
    """One import of a workspace is under way at a time."""
    stored, dated = services.imports.dated(command_scope(request, caller), entity_id)
    _require(caller, stored.kind)

    def act(scope: Scope) -> Response:
        return _begun(services.imports.start(scope, entity_id, dated), scope, entity_id)

    return executor.run(act)


@ROUTER.get(
    "/{id}/findings",
    operation_id="listImportFindings",
    summary="What there was to say about rows: row, column, value, code and a sentence",
    responses={
        200: success("A page.", example={"items": [EXAMPLE_FINDING], "nextCursor": None}),
        **problems(codes.NOT_FOUND),
    },
)
def findings(
    request: Request,
    entity_id: EntityId,
    services: ServicesDep,
    caller: Writer,
    _: Waits,
    cursor: Annotated[int, Query(ge=0, le=2**62, description="Go on after this.")] = 0,
    limit: Annotated[
        int, Query(alias="pageSize", ge=1, le=FINDINGS_PAGE_MAX)
    ] = FINDINGS_PAGE_DEFAULT,
) -> Response:
    """In the order of the rows, file by file; errors kept a row out, warnings did not."""
    scope = command_scope(request, caller)
    page = services.imports.findings(scope, entity_id, cursor, limit + 1)
    more = page[limit - 1][0] if len(page) > limit else None
    content = {"items": [each for _, each in page[:limit]], "nextCursor": more}
    return Response(orjson.dumps(content), media_type=JSON_TYPE)


@ROUTER.get(
    "/{id}/failed.csv",
    operation_id="getFailedRows",
    summary="The rows that failed, with their own columns and why, to be mended",
    responses={
        200: {
            **success("In UTF-8, with the delimiter of the file."),
            "content": {CSV_TYPE: {"schema": {"type": "string"}, "example": EXAMPLE_FAILED}},
        },
        **problems(codes.NOT_FOUND),
    },
)
def failed(
    request: Request, entity_id: EntityId, services: ServicesDep, caller: Writer, _: Waits
) -> Response:
    """Mend the cells, leave the columns `annals:…` alone, and hand it in at `/mended`."""
    scope = command_scope(request, caller)
    stored, _job = services.imports.get(scope, entity_id)
    return failed_rows(services.imports, scope, stored)


@ROUTER.post(
    "/{id}/mended",
    operation_id="mendImport",
    summary="Hand in the failed rows again, mended; the import goes on with them",
    status_code=202,
    responses={
        202: JOB_ACCEPTED,
        **problems(codes.NOTHING_TO_MEND, *ON_START, *ON_FILE, *ON_WRITE),
    },
    openapi_extra=FILE_BODY,
    dependencies=[Depends(require_write_capacity)],
)
async def mend(
    request: Request,
    entity_id: EntityId,
    services: ServicesDep,
    caller: Writer,
    executor: Executor,
    encoding: EncodingName = None,
    delimiter: Delimiter = None,
) -> Response:
    """Rows that succeeded are not done again, whatever the file holds. Not those that failed and
    are not in it: they can be mended later."""
    imports, scope = services.imports, command_scope(request, caller)
    stored, _job = await run_in_threadpool(imports.get, scope, entity_id)
    _require(caller, stored.kind)
    round_ = await run_in_threadpool(imports.begin_round, scope, entity_id)
    is_kept = False
    try:
        received = await _receive(request, services, scope, entity_id, round_)
        looked = await run_in_threadpool(
            imports.look,
            scope,
            entity_id,
            round_,
            stored.file_name,
            received.size_bytes,
            encoding=encoding or charset_of(request),
            delimiter=delimiter,
        )

        def act(scope: Scope) -> Response:
            return _begun(imports.resume(scope, looked), scope, entity_id)

        content = orjson.dumps([encoding, delimiter, received.digest.hex()])
        response = await run_in_threadpool(executor.run, act, Body(CSV_TYPE, content))
        is_kept = REPLAYED not in response.headers
        return response
    finally:
        if not is_kept:
            await run_in_threadpool(imports.give_up, scope, entity_id, round_)


@ROUTER.delete(
    "/{id}",
    operation_id="deleteImport",
    summary="Forget the file and its failed rows; what was imported stays",
    status_code=204,
    responses={
        204: success("It is not kept any more.", None, "Annals-Position"),
        **problems(codes.NOT_FOUND, codes.IMPORT_UNDER_WAY, *ON_VERSION, *ON_WRITE),
    },
    dependencies=[Depends(require_write_capacity)],
)
def delete(
    entity_id: EntityId,
    services: ServicesDep,
    _caller: Writer,
    versions: Versions,
    executor: Executor,
) -> Response:
    """Not while its job is at work."""

    def act(scope: Scope) -> Response:
        drop = services.imports.drop
        with_if_match(versions, lambda each: drop(scope, entity_id, expected_version=each))
        return _answer(services, scope, None, 204)

    return executor.run(act)


async def _receive(
    request: Request, services: ServicesDep, scope: Scope, import_id: UUID, round_: int
) -> Received:
    async def save(first: int, parts: list[bytes]) -> None:
        add = services.imports.add_parts
        await run_in_threadpool(add, scope, import_id, round_, first, parts)

    return await receive_file(request, save)


def _begun(outcome: JobOutcome, scope: Scope, import_id: UUID) -> Response:
    """202. All rounds of an import are one command, named by the import's id."""
    response = job_accepted(outcome, replace(scope, command_id=str(import_id)))
    response.headers[COMMAND] = str(import_id)
    return response


def _answer(
    services: ServicesDep,
    scope: Scope,
    content: Mapping[str, Any] | None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """What is kept of an import is no event; the position is that of what was recorded before."""
    with services.log.scoped(scope):
        position = services.log.taken_position()
    found = {**(headers or {}), POSITION: str(position)}
    if content is None:
        return Response(status_code=status, headers=found)
    return Response(orjson.dumps(content), status, media_type=JSON_TYPE, headers=found)


def _require(caller: Caller, plural: str) -> None:
    """Importing takes what creating one by one does."""
    kind = IMPORTABLE.get(plural)
    caller.require(write_permission(kind) if kind else Permission.WRITE)
