"""/api/imports: upload a file, choose fields for its columns, preview it, start it, correct it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.dependencies.annotated import EntityId, Executor, ServicesDep, Versions, Writer
from api.dependencies.idempotency import REPLAYED, IdempotentExecutor
from api.dependencies.request import command_scope, require_write_capacity
from api.dependencies.services import Services
from api.http.auth import Caller
from api.http.bodies import Body, parse_body, require_body
from api.http.conditions import await_position, with_if_match
from api.http.openapi.bodies import request_body
from api.http.openapi.examples import one_page
from api.http.openapi.headers import described_headers
from api.http.openapi.responses import (
    ON_BODY,
    ON_FIELDS,
    ON_READ,
    ON_VERSION,
    ON_WRITE,
    no_body,
    problems,
    success,
    text,
)
from api.http.parameters import OneOfKinds
from api.http.responses import COMMAND, POSITION, etag, json_response
from api.http.uploads import (
    CSV_TYPE,
    FILE_PART,
    FORM_TYPE,
    charset_of,
    plain_name,
    receive_file,
)
from api.jobs.import_responses import (
    EXAMPLE_FAILED_ROWS,
    EXAMPLE_IMPORT,
    EXAMPLE_ISSUE,
    EXAMPLE_PREVIEW,
    IMPORT_ISSUE_PAGE,
    PREVIEW_ROWS_DEFAULT,
    PREVIEW_ROWS_SHOWN,
    Import,
    ImportChange,
    ImportPreview,
    Imports,
    changed_options,
    failed_rows_csv,
    import_as_json,
    preview_as_json,
)
from api.jobs.responses import JOB_ACCEPTED, job_accepted
from commands.importing.commands import InspectedFile
from commands.importing.mapping import IMPORTABLE
from commands.importing.store import FIRST_ROUND, StoredImport
from commands.jobs.requests import JobOutcome
from commands.permissions import Permission, write_permission
from eventlog.scope import Scope
from runtime import codes
from runtime.patches import JSON_TYPE
from runtime.work.imports import READ_TABLES

LATEST_MAX = 100
ISSUES_PAGE_DEFAULT = 100
ISSUES_PAGE_MAX = 1_000
PREVIEW_READS = ("accounts", "contacts", "members")
"""The projections that a preview reads."""

ROUTER = APIRouter(prefix="/api/imports", tags=["imports"])

MinPosition = Annotated[None, Depends(await_position())]
"""Accepts Annals-Min-Position. Imports are not projected, so there is nothing to wait for."""
Delimiter = Annotated[str | None, Query(min_length=1, max_length=1)]
EncodingName = Annotated[str | None, Query(min_length=1, max_length=40)]

ON_FILE = (
    *(codes.IMPORT_EMPTY, codes.IMPORT_TOO_LARGE, codes.NOT_A_TABLE, codes.WRONG_ENCODING),
    *(codes.IMPORT_OPTIONS, codes.WRONG_FORM, codes.UNSUPPORTED_MEDIA_TYPE, codes.BODY_TIMED_OUT),
)
ON_START = (
    *(codes.IMPORT_UNDER_WAY, codes.IMPORT_OPTIONS, codes.NOT_A_TABLE, codes.NOT_FOUND),
    codes.TOO_MANY_OPEN_JOBS,
)
CSV_ROWS = text("In UTF-8, with the delimiter of the file.", {CSV_TYPE: EXAMPLE_FAILED_ROWS})
CSV_ROWS["headers"] |= described_headers("Content-Disposition")
FILE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            CSV_TYPE: {
                "schema": {"type": "string", "minLength": 1},
                "example": "company,type\nAcme,customer\n",
            },
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
    operation_id="uploadImport",
    summary="Upload a CSV file; a field is proposed for each of its columns",
    status_code=201,
    responses={
        201: success(
            "Uploaded.", Import, *("ETag", "Location", "Annals-Position"), example=EXAMPLE_IMPORT
        ),
        **problems(codes.NOT_IMPORTABLE, *ON_FILE, *ON_WRITE),
    },
    openapi_extra=FILE_BODY,
    dependencies=[Depends(require_write_capacity)],
)
async def upload(
    request: Request,
    services: ServicesDep,
    caller: Writer,
    executor: Executor,
    kind: Annotated[str, OneOfKinds(tuple(IMPORTABLE))],
    file_name: Annotated[str | None, Query(alias="fileName", max_length=200)] = None,
    encoding: EncodingName = None,
    delimiter: Delimiter = None,
) -> Response:
    """Nothing is imported yet. Encoding and delimiter are detected unless given."""
    _require_write(caller, kind)
    imports, scope = services.imports, command_scope(request, caller)
    import_id = await run_in_threadpool(imports.begin_upload, scope, kind, plain_name(file_name))

    def act(scope: Scope, file: InspectedFile) -> Response:
        stored = imports.finish_upload(scope, kind, file)
        headers = {"Location": f"/api/imports/{import_id}", "ETag": etag(stored.version)}
        return _import_response(services, scope, stored, 201, headers)

    upload = _Upload(request, services, scope, import_id, FIRST_ROUND, encoding, delimiter)
    return await upload.perform(executor, act, file_name, kind)


@ROUTER.get(
    "",
    operation_id="listImports",
    summary="The latest imports",
    responses={
        200: success("The latest.", Imports, example={"items": [EXAMPLE_IMPORT]}),
        **problems(),
    },
)
def list_(request: Request, services: ServicesDep, caller: Writer, _: MinPosition) -> Response:
    """Deleted imports are not listed. `jobId` names the job; its state is not included."""
    scope = command_scope(request, caller)
    latest = services.imports.latest(scope, LATEST_MAX)
    items = [import_as_json(each, None, services.settings) for each in latest]
    return json_response({"items": items})


@ROUTER.get(
    "/{id:uuid}",
    operation_id="getImport",
    summary="An import: its columns, their fields, and the progress of its job",
    responses={
        200: success("The import.", Import, "ETag", example=EXAMPLE_IMPORT),
        **problems(codes.NOT_FOUND),
    },
)
def get(
    request: Request, entity_id: EntityId, services: ServicesDep, caller: Writer, _: MinPosition
) -> Response:
    """404 once the import is deleted."""
    scope = command_scope(request, caller)
    stored, job = services.imports.get_with_job(scope, entity_id)
    return json_response(import_as_json(stored, job, services.settings), version=stored.version)


@ROUTER.patch(
    "/{id:uuid}",
    operation_id="changeImport",
    summary="Choose the fields of the columns, which rows are the same, and what happens to those",
    responses={
        200: success("Changed.", Import, "ETag", "Annals-Position", example=EXAMPLE_IMPORT),
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
    """Only before the import is started. Members that are left out keep their value; a column set
    to null gets the proposed field. With another encoding or delimiter, new fields are proposed."""
    changes = parse_body(ImportChange, given)
    file: InspectedFile | None = None
    if changes.encoding or changes.delimiter:
        file = await run_in_threadpool(
            services.imports.inspect_again,
            command_scope(request, caller),
            entity_id,
            encoding=changes.encoding,
            delimiter=changes.delimiter,
        )

    def act(scope: Scope) -> Response:
        stored = with_if_match(
            versions,
            lambda version: services.imports.change_options(
                scope,
                entity_id,
                lambda before: changed_options(before, changes),
                file,
                expected_version=version,
            ),
        )
        return _import_response(services, scope, stored, 200, {"ETag": etag(stored.version)})

    return await run_in_threadpool(executor.run, act, given)


@ROUTER.get(
    "/{id:uuid}/preview",
    operation_id="previewImport",
    summary="What an import would do: rows created, updated, skipped, failed",
    responses={
        200: success("Nothing was written.", ImportPreview, example=EXAMPLE_PREVIEW),
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
    _: Annotated[None, Depends(await_position(*PREVIEW_READS))],
    rows: Annotated[int, Query(ge=1)] = PREVIEW_ROWS_DEFAULT,
) -> Response:
    """The first `rows` rows, at most ANNALS_IMPORT_PREVIEW_ROWS_MAX, are decided as the job would
    decide them now. `isComplete` is true if those are all rows."""
    found = services.imports.preview(
        command_scope(request, caller),
        READ_TABLES,
        entity_id,
        rows_max=min(rows, services.settings.import_preview_rows_max),
        outcomes_max=PREVIEW_ROWS_SHOWN,
    )
    return json_response(preview_as_json(found))


@ROUTER.post(
    "/{id:uuid}/start",
    operation_id="startImport",
    summary="Import the rows, as a job; one undo by the import's id takes all of it back",
    status_code=202,
    responses={202: JOB_ACCEPTED, **problems(codes.IMPORT_STARTED, *ON_START, *ON_WRITE)},
    dependencies=[Depends(require_write_capacity)],
)
def start(
    request: Request, entity_id: EntityId, services: ServicesDep, caller: Writer, executor: Executor
) -> Response:
    """A workspace has at most one import under way."""
    stored, orders = services.imports.detect_dates(command_scope(request, caller), entity_id)
    _require_write(caller, stored.kind)

    def act(scope: Scope) -> Response:
        return _import_accepted(services.imports.start(scope, entity_id, orders), scope, entity_id)

    return executor.run(act)


@ROUTER.get(
    "/{id:uuid}/issues",
    operation_id="listImportIssues",
    summary="Issues of the rows: row, column, value, code and a sentence",
    responses={
        200: success("One page.", IMPORT_ISSUE_PAGE, example=one_page(EXAMPLE_ISSUE)),
        **problems(codes.NOT_FOUND),
    },
)
def issues(
    request: Request,
    entity_id: EntityId,
    services: ServicesDep,
    caller: Writer,
    _: MinPosition,
    cursor: Annotated[int, Query(ge=0, le=2**62, description="Continue after this.")] = 0,
    limit: Annotated[int, Query(alias="pageSize", ge=1, le=ISSUES_PAGE_MAX)] = ISSUES_PAGE_DEFAULT,
) -> Response:
    """Issues are in the order of the rows, file by file. A row with an error was not imported."""
    scope = command_scope(request, caller)
    page = services.imports.issues(scope, entity_id, cursor, limit + 1)
    more = page[limit - 1][0] if len(page) > limit else None
    return json_response({"items": [each for _, each in page[:limit]], "nextCursor": more})


@ROUTER.get(
    "/{id:uuid}/failed.csv",
    operation_id="getFailedRows",
    response_class=Response,
    summary="The rows that failed, with their columns and the reasons, to be corrected",
    responses={
        200: CSV_ROWS,
        **problems(codes.NOT_FOUND),
    },
)
def failed(
    request: Request, entity_id: EntityId, services: ServicesDep, caller: Writer, _: MinPosition
) -> Response:
    """Correct the cells, keep the columns `annals:…`, and upload the file to `/corrections`."""
    scope = command_scope(request, caller)
    return failed_rows_csv(services.imports, scope, services.imports.get(scope, entity_id))


@ROUTER.post(
    "/{id:uuid}/corrections",
    operation_id="correctImport",
    summary="Upload failed rows that were corrected; the import resumes with them",
    status_code=202,
    responses={
        202: JOB_ACCEPTED,
        **problems(codes.NO_FAILED_ROWS, *ON_START, *ON_FILE, *ON_WRITE),
    },
    openapi_extra=FILE_BODY,
    dependencies=[Depends(require_write_capacity)],
)
async def correct(
    request: Request,
    entity_id: EntityId,
    services: ServicesDep,
    caller: Writer,
    executor: Executor,
    encoding: EncodingName = None,
    delimiter: Delimiter = None,
) -> Response:
    """Rows that succeeded before are skipped. Failed rows that the file lacks can be corrected
    later."""
    imports, scope = services.imports, command_scope(request, caller)
    stored = await run_in_threadpool(imports.get, scope, entity_id)
    _require_write(caller, stored.kind)
    round_ = await run_in_threadpool(imports.begin_corrections, scope, entity_id)

    def act(scope: Scope, file: InspectedFile) -> Response:
        return _import_accepted(imports.resume(scope, file), scope, entity_id)

    upload = _Upload(request, services, scope, entity_id, round_, encoding, delimiter)
    return await upload.perform(executor, act, stored.file_name)


@ROUTER.delete(
    "/{id:uuid}",
    operation_id="deleteImport",
    summary="Delete the file and its failed rows; what was imported stays",
    status_code=204,
    responses={
        204: no_body("Deleted.", "Annals-Position"),
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
    """409 while the job of the import is running."""

    def act(scope: Scope) -> Response:
        imports = services.imports
        with_if_match(
            versions, lambda each: imports.delete(scope, entity_id, expected_version=each)
        )
        return _import_response(services, scope, None, 204, {})

    return executor.run(act)


@dataclass(frozen=True)
class _Upload:
    """A request whose body is a file for one round of an import."""

    request: Request
    services: Services
    scope: Scope
    import_id: UUID
    round: int
    encoding: str | None
    delimiter: str | None

    async def perform(
        self,
        executor: IdempotentExecutor,
        act: Callable[[Scope, InspectedFile], Response],
        name: str | None,
        *identity_parts: str,
    ) -> Response:
        """Store and inspect the file, then act on it, once for each idempotency key.

        `identity_parts` also distinguish the request from others with the same idempotency key. The
        file is deleted if anything raises, or if the key was used before.
        """
        imports, is_stored = self.services.imports, False
        try:
            received = await receive_file(self.request, self._save)
            name = plain_name(name or received.name)
            file = await run_in_threadpool(
                imports.inspect,
                self.scope,
                self.import_id,
                self.round,
                name,
                received.size_bytes,
                encoding=self.encoding or charset_of(self.request),
                delimiter=self.delimiter,
            )
            identity = [*identity_parts, name, self.encoding, self.delimiter, received.digest.hex()]
            response = await run_in_threadpool(
                executor.run, lambda scope: act(scope, file), Body(CSV_TYPE, orjson.dumps(identity))
            )
            is_stored = REPLAYED not in response.headers
            return response
        finally:
            if not is_stored:
                discard = imports.discard_upload
                await run_in_threadpool(discard, self.scope, self.import_id, self.round)

    async def _save(self, first: int, parts: list[bytes]) -> None:
        add = self.services.imports.add_parts
        await run_in_threadpool(add, self.scope, self.import_id, self.round, first, parts)


def _import_accepted(outcome: JobOutcome, scope: Scope, import_id: UUID) -> Response:
    """Return 202. All rounds of an import are one command, named by the import's id."""
    response = job_accepted(outcome, replace(scope, command_id=str(import_id)))
    response.headers[COMMAND] = str(import_id)
    return response


def _import_response(
    services: Services,
    scope: Scope,
    stored: StoredImport | None,
    status: int,
    headers: Mapping[str, str],
) -> Response:
    """Return the import as JSON. It records no event, so the position is the end of the log."""
    with services.log.scoped(scope):
        position = services.log.taken_position()
    content = b""
    if stored is not None:
        content = orjson.dumps(import_as_json(stored, None, services.settings))
    media_type = JSON_TYPE if stored is not None else None
    return Response(
        content, status, media_type=media_type, headers={**headers, POSITION: str(position)}
    )


def _require_write(caller: Caller, plural: str) -> None:
    """Raise 403 (E1008) unless the caller may create entities of the kind."""
    kind = IMPORTABLE.get(plural)
    caller.require(write_permission(kind) if kind else Permission.WRITE)
