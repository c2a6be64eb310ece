"""The JSON of imports and previews, the CSV of failed rows, and the model of a change."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.records import ResponseModel, page_of
from api.http.uploads import CSV_TYPE
from api.jobs.responses import JobSummary, job_summary
from commands.importing.cells import DateOrder
from commands.importing.commands import ImportCommands
from commands.importing.deciding import RowResult
from commands.importing.files import CELL_MAX_CHARS, COLUMNS_MAX, ROWS_MAX
from commands.importing.mapping import RESERVED_PREFIX, ROW_COLUMN, Mode
from commands.importing.preview import Preview
from commands.importing.store import FailedRow, StoredImport
from domain.job import Job
from domain.shared.text import neutralised
from eventlog.scope import Scope
from runtime.settings import Settings

PREVIEW_ROWS_DEFAULT = 1_000
PREVIEW_ROWS_SHOWN = 20
FAILED_ROWS_PAGE = 1_000
DEDUPE_BY_MAX = 10
CORRECTIONS_MAX = 1_000

CODE_COLUMN = f"{RESERVED_PREFIX}code"
ERROR_COLUMN = f"{RESERVED_PREFIX}error"

PREVIEW_RESULTS = {
    RowResult.CREATED: "create",
    RowResult.UPDATED: "update",
    RowResult.SKIPPED: "skip",
    RowResult.FAILED: "fail",
}
"""The names of the results in a preview."""

EXAMPLE_IMPORT = {
    "id": EXAMPLE_ID,
    "kind": "accounts",
    "fileName": "customers.csv",
    "sizeBytes": 51_200,
    "encoding": "utf-8",
    "delimiter": ",",
    "rows": 500,
    "columns": [
        {
            "name": "Organisation",
            "examples": ["Acme Corporation"],
            "field": "company",
            "proposed": "company",
            "why": "spelling",
        }
    ],
    "dedupeBy": ["company"],
    "mode": "skip",
    "defaults": {"type": "customer"},
    "corrections": {},
    "dates": None,
    "rowsMax": None,
    "handedInAt": EXAMPLE_TIME,
    "keptUntil": EXAMPLE_TIME,
    "version": 1,
    "failedRows": 0,
    "jobId": None,
    "job": None,
    "rounds": [{"round": 1, "rows": 500, "jobId": None}],
}
EXAMPLE_ISSUE = {
    "row": 17,
    "severity": "error",
    "column": "Type",
    "value": "sponsor",
    "code": "invalid_value",
    "message": "The value is none of investor, customer, partner.",
}
EXAMPLE_FAILED_ROWS = (
    "company,type,annals:row,annals:code,annals:error\r\n"
    '"Acme",sponsor,17,invalid_value,"type: The value is none of investor, customer, partner."\r\n'
)
EXAMPLE_PREVIEW = {
    "rows": 500,
    "total": 500,
    "isComplete": True,
    "counts": {"create": 480, "update": 0, "skip": 15, "fail": 5},
    "errors": {"invalid_value": 5},
    "warnings": {},
    "firstRows": [
        {
            "row": 2,
            "result": "create",
            "fields": {"company": "Acme Corporation", "type": "customer"},
            "contact": {"name": "Ada Lovelace"},
            "issues": [],
        }
    ],
}


class ImportColumn(ResponseModel):
    """A column of the file."""

    name: str
    examples: list[str]
    field: str = Field(description="The field that it is imported into; empty if it is left out.")
    proposed: str
    why: str


class ImportRound(ResponseModel):
    """One file of an import: the first one, or corrected rows."""

    round: int
    rows: int
    job_id: UUID | None


class ImportJob(JobSummary):
    """The latest job of an import."""

    counts: dict[str, int]


class Import(ResponseModel):
    """An uploaded file, the fields of its columns, and the progress of its import."""

    id: UUID
    kind: str
    file_name: str
    size_bytes: int
    encoding: str
    delimiter: str
    rows: int
    columns: list[ImportColumn]
    dedupe_by: list[str]
    mode: Mode
    defaults: dict[str, str]
    corrections: dict[str, dict[str, str]]
    dates: DateOrder | None
    rows_max: int | None
    handed_in_at: datetime
    kept_until: datetime
    version: int
    failed_rows: int
    job_id: UUID | None
    job: ImportJob | None = Field(description="Null in lists, and before the import is started.")
    rounds: list[ImportRound]


class Imports(ResponseModel):
    """The latest imports."""

    items: list[Import]


class ImportIssue(ResponseModel):
    """An error or a warning about a row."""

    row: int
    severity: str
    column: str
    value: str
    code: str
    message: str


IMPORT_ISSUE_PAGE = page_of(ImportIssue, "ImportIssuePage", int)


class PreviewedRow(ResponseModel):
    """What an import would do with a row."""

    row: int
    result: str = Field(description="`create`, `update`, `skip` or `fail`.")
    fields: dict[str, Any]
    contact: dict[str, Any] | None
    issues: list[ImportIssue]


class ImportPreview(ResponseModel):
    """What an import would do."""

    rows: int = Field(description="The rows that were decided.")
    total: int
    is_complete: bool
    counts: dict[str, int]
    errors: dict[str, int]
    warnings: dict[str, int]
    first_rows: list[PreviewedRow]


Cell = Annotated[str, StringConstraints(max_length=CELL_MAX_CHARS)]


class ImportChange(BaseModel):
    """A change of an import. Members that are left out keep their value."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    mapping: dict[str, Annotated[str, StringConstraints(max_length=200)] | None] | None = Field(
        default=None,
        max_length=COLUMNS_MAX,
        description="Field by column: `company`, `customFields.sector`, for accounts also"
        " `contactName` and the like; empty to leave the column out, null for the proposed field.",
        examples=[{"Organisation": "company", "Internal": ""}],
    )
    dedupe_by: list[str] | None = Field(
        default=None,
        max_length=DEDUPE_BY_MAX,
        description="Fields that identify a row: rows and entities with the same values are the"
        " same.",
    )
    mode: Mode | None = Field(
        default=None,
        description="What happens to a row that exists already: it is skipped, updates the fields"
        " for which it has a value, or is created once more.",
    )
    defaults: dict[str, Cell] | None = Field(
        default=None,
        max_length=COLUMNS_MAX,
        description="Text by field, for new entities whose row has no value.",
        examples=[{"type": "customer"}],
    )
    corrections: dict[str, dict[str, Cell]] | None = Field(
        default=None,
        max_length=CORRECTIONS_MAX,
        description="By column: the right value for a wrong one.",
        examples=[{"sector": {"technolgy": "technology"}}],
    )
    dates: DateOrder | None = Field(
        default=None, description="How dates are written; null to detect it, column by column."
    )
    rows_max: int | None = Field(
        default=None, ge=1, le=ROWS_MAX, description="Import the first rows only."
    )
    encoding: Annotated[str, StringConstraints(min_length=1, max_length=40)] | None = None
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] | None = None


OPTIONS = ("dedupeBy", "mode", "defaults", "corrections", "dates", "rowsMax")
NULLABLE = frozenset({"dates", "rowsMax"})


def changed_options(stored: StoredImport, change: ImportChange) -> dict[str, Any]:
    """Return the options after the change, as JSON."""
    given = change.model_dump(mode="json", by_alias=True, exclude_unset=True)
    options = dict(stored.options)
    for name in OPTIONS:
        if name in given and (given[name] is not None or name in NULLABLE):
            options[name] = given[name]
    proposed = {each["name"]: each["proposed"] for each in stored.columns}
    mapping = {
        column: proposed.get(column, "") if field is None else field
        for column, field in (given.get("mapping") or {}).items()
    }
    return {**options, "mapping": {**options.get("mapping", {}), **mapping}}


def import_as_json(stored: StoredImport, job: Job | None, settings: Settings) -> dict[str, Any]:
    """Return the JSON of an import."""
    first, options = stored.files[0], stored.options
    kept_until = stored.handed_in_at + timedelta(seconds=settings.import_kept_s)
    return {
        "id": str(stored.id),
        "kind": stored.kind,
        "fileName": stored.file_name,
        "sizeBytes": first.size_bytes,
        "encoding": first.encoding,
        "delimiter": first.delimiter,
        "rows": first.rows,
        "columns": [
            {**each, "field": options["mapping"].get(each["name"], each["proposed"])}
            for each in stored.columns
        ],
        **{name: options[name] for name in OPTIONS},
        "handedInAt": stored.handed_in_at.isoformat(),
        "keptUntil": kept_until.isoformat(),
        "version": stored.version,
        "failedRows": stored.failed_rows,
        "jobId": _id(stored.last_job_id),
        "job": {**job_summary(job), "counts": job.counts} if job else None,
        "rounds": [
            {"round": each.round, "rows": each.rows, "jobId": _id(each.job_id)}
            for each in stored.files
        ],
    }


def _id(id_: UUID | None) -> str | None:
    return str(id_) if id_ else None


def preview_as_json(found: Preview) -> dict[str, Any]:
    """Return the JSON of a preview."""
    return {
        "rows": found.rows,
        "total": found.total,
        "isComplete": found.rows == found.total,
        "counts": {name: found.results[result] for result, name in PREVIEW_RESULTS.items()},
        "errors": dict(found.errors.most_common()),
        "warnings": dict(found.warnings.most_common()),
        "firstRows": [
            {
                "row": each.row.number,
                "result": PREVIEW_RESULTS[each.result],
                "fields": each.row.values,
                "contact": each.row.contact,
                "issues": [issue.as_json() for issue in each.issues],
            }
            for each in found.outcomes
        ],
    }


def failed_rows_csv(imports: ImportCommands, scope: Scope, stored: StoredImport) -> Response:
    """Stream the failed rows as CSV, page by page, safe to open in a spreadsheet."""
    columns, delimiter = stored.files[0].columns, stored.files[0].delimiter
    columns = tuple(each for each in columns if not each.startswith(RESERVED_PREFIX))
    headers = {"Content-Disposition": f'attachment; filename="failed-{stored.id}.csv"'}

    def lines() -> Iterator[bytes]:
        head = (*columns, ROW_COLUMN, CODE_COLUMN, ERROR_COLUMN)
        # Some spreadsheets recognise UTF-8 by its byte order mark only.
        yield codecs.BOM_UTF8 + _line(head, delimiter)
        after = 0
        while page := imports.failed_rows(scope, stored.id, after, FAILED_ROWS_PAGE):
            yield b"".join(_line(_cells(each, columns), delimiter) for each in page)
            after = page[-1].row

    return StreamingResponse(lines(), media_type=f"{CSV_TYPE}; charset=utf-8", headers=headers)


def _cells(failed: FailedRow, columns: tuple[str, ...]) -> list[str]:
    codes = " ".join(dict.fromkeys(each["code"] for each in failed.issues))
    errors = " ".join(
        f"{each['column']}: {each['message']}" if each["column"] else each["message"]
        for each in failed.issues
    )
    return [*(failed.cells.get(name, "") for name in columns), str(failed.row), codes, errors]


def _line(cells: Iterable[str], delimiter: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerow([neutralised(each) for each in cells])
    return text.getvalue().encode()
