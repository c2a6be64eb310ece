"""How imports are shown, and what may be said about them."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from api.http.openapi.bodies import add_body_model
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from api.http.uploads import CSV_TYPE
from api.jobs.responses import job_summary
from commands.importing.cells import DateOrder
from commands.importing.commands import ImportCommands
from commands.importing.deciding import RowOutcome, RowResult
from commands.importing.options import RESERVED, ROW_COLUMN, Mode
from commands.importing.running import Preview
from commands.importing.store import Failure, StoredImport, finding_as_json
from commands.importing.tables import CELL_MAX_CHARS, COLUMNS_MAX, ROWS_MAX
from domain.job import Job
from domain.shared.cells import neutralised
from eventlog.scope import Scope
from runtime.settings import Settings

PREVIEW_ROWS_DEFAULT = 1_000
ROWS_SHOWN = 20
FAILURES_PAGE = 1_000
DEDUPE_BY_MAX = 10
CORRECTIONS_MAX = 1_000

CODE_COLUMN = f"{RESERVED}code"
ERROR_COLUMN = f"{RESERVED}error"

WOULD = {
    RowResult.CREATED: "create",
    RowResult.UPDATED: "update",
    RowResult.SKIPPED: "skip",
    RowResult.FAILED: "fail",
}
"""What a preview calls the results."""

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
EXAMPLE_FINDING = {
    "row": 17,
    "severity": "error",
    "column": "Type",
    "value": "sponsor",
    "code": "invalid_value",
    "message": "The value is none of investor, customer, partner.",
}
EXAMPLE_FAILED = (
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
            "findings": [],
        }
    ],
}

Cell = Annotated[str, StringConstraints(max_length=CELL_MAX_CHARS)]


class ImportChange(BaseModel):
    """What becomes of an import. What is not named stays as it is."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    mapping: dict[str, Annotated[str, StringConstraints(max_length=200)] | None] | None = Field(
        default=None,
        max_length=COLUMNS_MAX,
        description="Field by column: `company`, `customFields.sector`, of accounts also"
        " `contactName` and the like; empty to leave the column out, null for what was proposed.",
        examples=[{"Organisation": "company", "Internal": ""}],
    )
    dedupe_by: list[str] | None = Field(
        default=None,
        max_length=DEDUPE_BY_MAX,
        description="Fields by which rows are told apart, from each other and from what is there.",
    )
    mode: Mode | None = Field(
        default=None,
        description="What becomes of a row that is there already: left, changed in the fields that"
        " it has something for, or created once more.",
    )
    defaults: dict[str, Cell] | None = Field(
        default=None,
        max_length=COLUMNS_MAX,
        description="Text by field, for new things where the row has nothing.",
        examples=[{"type": "customer"}],
    )
    corrections: dict[str, dict[str, Cell]] | None = Field(
        default=None,
        max_length=CORRECTIONS_MAX,
        description="By column: right for wrong.",
        examples=[{"sector": {"technolgy": "technology"}}],
    )
    dates: DateOrder | None = Field(
        default=None, description="How dates are written; null to find out, column by column."
    )
    rows_max: int | None = Field(default=None, ge=1, le=ROWS_MAX, description="Only so many rows.")
    encoding: Annotated[str, StringConstraints(min_length=1, max_length=40)] | None = None
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] | None = None


add_body_model(ImportChange)

NAMED = ("dedupeBy", "mode", "defaults", "corrections", "dates", "rowsMax")
NULLABLE = frozenset({"dates", "rowsMax"})


def changed(stored: StoredImport, asked: ImportChange) -> dict[str, Any]:
    """The options after the change, as JSON."""
    given = asked.model_dump(mode="json", by_alias=True, exclude_unset=True)
    options = dict(stored.options)
    for name in NAMED:
        if name in given and (given[name] is not None or name in NULLABLE):
            options[name] = given[name]
    proposed = {each["name"]: each["proposed"] for each in stored.columns}
    mapping = {
        column: proposed.get(column, "") if field is None else field
        for column, field in (given.get("mapping") or {}).items()
    }
    return {**options, "mapping": {**options.get("mapping", {}), **mapping}}


def import_as_shown(stored: StoredImport, job: Job | None, settings: Settings) -> dict[str, Any]:
    """The import as answers show it."""
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
        "columns": [_column(each, options["mapping"]) for each in stored.columns],
        **{name: options[name] for name in NAMED},
        "handedInAt": stored.handed_in_at.isoformat(),
        "keptUntil": kept_until.isoformat(),
        "version": stored.version,
        "failedRows": stored.failed_rows,
        "jobId": next((str(each.job_id) for each in reversed(stored.files) if each.job_id), None),
        "job": {**job_summary(job), "counts": job.counts} if job else None,
        "rounds": [
            {
                "round": each.round,
                "rows": each.rows,
                "jobId": str(each.job_id) if each.job_id else None,
            }
            for each in stored.files
        ],
    }


def _column(column: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    return {**column, "field": mapping.get(column["name"], column["proposed"])}


def shown_preview(found: Preview, stored: StoredImport) -> dict[str, Any]:
    """The preview as it is answered."""
    total = min(stored.files[0].rows, stored.options.get("rowsMax") or ROWS_MAX)
    return {
        "rows": found.tally.rows,
        "total": total,
        "isComplete": found.tally.rows == total,
        "counts": {name: found.tally.results[result] for result, name in WOULD.items()},
        "errors": dict(found.tally.errors.most_common()),
        "warnings": dict(found.tally.warnings.most_common()),
        "firstRows": [_row(each) for each in found.outcomes],
    }


def _row(outcome: RowOutcome) -> dict[str, Any]:
    return {
        "row": outcome.row.number,
        "result": WOULD[outcome.result],
        "fields": outcome.row.values,
        "contact": outcome.row.contact,
        "findings": [finding_as_json(each) for each in outcome.findings],
    }


def failed_rows(imports: ImportCommands, scope: Scope, stored: StoredImport) -> Response:
    """The failed rows as CSV, page by page, safe to be opened in a spreadsheet."""
    columns, delimiter = stored.files[0].columns, stored.files[0].delimiter
    columns = tuple(each for each in columns if not each.startswith(RESERVED))
    headers = {"Content-Disposition": f'attachment; filename="failed-{stored.id}.csv"'}

    def lines() -> Iterator[bytes]:
        head = (*columns, ROW_COLUMN, CODE_COLUMN, ERROR_COLUMN)
        # With its mark: without one some spreadsheets take UTF-8 for something else.
        yield codecs.BOM_UTF8 + _line(head, delimiter)
        after = 0
        while page := imports.failures(scope, stored.id, after, FAILURES_PAGE):
            yield b"".join(_line(_cells(each, columns), delimiter) for each in page)
            after = page[-1].row

    return StreamingResponse(lines(), media_type=f"{CSV_TYPE}; charset=utf-8", headers=headers)


def _cells(failure: Failure, columns: tuple[str, ...]) -> list[str]:
    codes = " ".join(dict.fromkeys(each["code"] for each in failure.findings))
    errors = " ".join(
        f"{each['column']}: {each['message']}" if each["column"] else each["message"]
        for each in failure.findings
    )
    return [*(failure.cells.get(name, "") for name in columns), str(failure.row), codes, errors]


def _line(cells: tuple[str, ...] | list[str], delimiter: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerow([neutralised(each) for each in cells])
    return text.getvalue().encode()
