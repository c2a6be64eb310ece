"""The mapping from exceptions to error codes and their details.

`python -m runtime.errors` prints docs/errors.md.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.persistence import (
    IntegrityError,
    MapperDeserialisationError,
    OperationalError,
    PersistenceError,
)
from psycopg_pool import PoolTimeout, TooManyRequests
from pydantic.alias_generators import to_camel

from commands.bulk import BulkRefused, ItemOutcome, TooManyItems
from commands.idempotency import KeyInFlight, KeyReused
from commands.importing.commands import ImportStarted, ImportUnderWay, NoFailedRows
from commands.importing.issues import ImportFault, ImportRefused
from commands.jobs.requests import TooManyOpenJobs
from commands.jobs.runs import TooManyFruitlessRuns
from commands.jobs.work import ErrorSummary
from commands.undo.commands import OperationInProgress
from domain import sms
from domain.job import JobEnded
from domain.shared import phone, refusals
from domain.shared.refusals import FieldError, Refusal
from domain.shared.text import shortened
from eventlog.connections import WRITES_REFUSED
from projections.engine.jobs.refusals import (
    NoPreviousTables,
    ProjectionJobEnded,
    ProjectionJobInProgress,
)
from readmodels.cursors import InvalidCursor
from readmodels.exports import EntitiesParked, NoConsistentSnapshot, TooManyColumns
from replay.as_of import TooMuchHistory
from runtime import codes
from runtime.codes import CODES
from runtime.codes.code import ErrorCode

log = logging.getLogger(__name__)

ERRORS_SHOWN_MAX = 100
"""Maximum number of field errors in a problem document; if there are more, `errorsTotal` says how
many."""
ITEM_ERRORS_SHOWN_MAX = 5
"""Maximum number of field errors of one item of a bulk change."""
FIELD_SHOWN_MAX_CHARS = 200
FACTS_SHOWN_MAX = 100
"""Maximum number of members of a list among the facts of a problem; if there are more,
`<name>Total` says how many."""
RESERVED = frozenset(
    {"type", "title", "status", "detail", "instance", "code", "errorCode", "requestId"}
)
"""Members of every problem document, which no fact may have as its name."""
DETAIL_MAX_CHARS = 2_000
"""Maximum length of a sentence or of a text from the request that an error repeats."""

NAMES = frozenset({"name", "company"})
"""Fields that name an entity. A missing one is E2001."""

CODES_BY_REFUSAL: Mapping[type[Refusal], ErrorCode] = MappingProxyType(
    {
        refusals.InvalidFields: codes.INVALID_FIELDS,
        refusals.NotFound: codes.NOT_FOUND,
        refusals.IsDeleted: codes.IS_DELETED,
        refusals.WasMerged: codes.WAS_MERGED,
        refusals.MergeRefused: codes.MERGE_REFUSED,
        refusals.TooMuchToMerge: codes.TOO_MUCH_TO_MERGE,
        refusals.PartOfAWhole: codes.PART_OF_A_WHOLE,
        refusals.TransitionRefused: codes.TRANSITION_REFUSED,
        refusals.OpenOpportunities: codes.OPEN_OPPORTUNITIES,
        refusals.AccountUnavailable: codes.ACCOUNT_UNAVAILABLE,
        refusals.NotAMember: codes.NOT_A_MEMBER,
        refusals.OccurredTooEarly: codes.OCCURRED_TOO_EARLY,
        refusals.StaleVersion: codes.STALE_VERSION,
        refusals.KeyRevoked: codes.KEY_REVOKED,
        refusals.KeyNotAccepted: codes.UNKNOWN_KEY,
        refusals.UndoConflict: codes.UNDO_CONFLICT,
        refusals.AlreadyUndone: codes.ALREADY_UNDONE,
        refusals.NotUndoable: codes.NOT_UNDOABLE,
        refusals.NothingToUndo: codes.NOTHING_TO_UNDO,
        refusals.TooMuchToUndo: codes.TOO_MUCH_TO_UNDO,
        OperationInProgress: codes.OPERATION_IN_PROGRESS,
        JobEnded: codes.JOB_ENDED,
        TooManyOpenJobs: codes.TOO_MANY_OPEN_JOBS,
        TooManyFruitlessRuns: codes.TOO_MANY_FRUITLESS_RUNS,
        refusals.ReferenceUnavailable: codes.REFERENCE_UNAVAILABLE,
        refusals.StatusUnchanged: codes.STATUS_UNCHANGED,
        refusals.AlreadyConverted: codes.ALREADY_CONVERTED,
        refusals.TimeTaken: codes.TIME_TAKEN,
        refusals.AlreadyConfirmed: codes.ALREADY_CONFIRMED,
        phone.PhoneUnusable: codes.PHONE_UNUSABLE,
        sms.VariableMissing: codes.TEMPLATE_VARIABLE_MISSING,
        sms.VariableUnknown: codes.TEMPLATE_VARIABLE_UNKNOWN,
        sms.LeadOptedOut: codes.LEAD_OPTED_OUT,
        sms.LeadHasNoPhone: codes.LEAD_HAS_NO_PHONE,
        sms.NoRecipient: codes.NOT_FOUND,
        sms.LeadDailyLimitReached: codes.LEAD_DAILY_LIMIT_REACHED,
        sms.WorkspaceDailyLimitReached: codes.WORKSPACE_DAILY_LIMIT_REACHED,
        BulkRefused: codes.BULK_REFUSED,
        TooManyItems: codes.TOO_MANY_ITEMS,
        ProjectionJobInProgress: codes.PROJECTION_JOB_IN_PROGRESS,
        ProjectionJobEnded: codes.PROJECTION_JOB_ENDED,
        NoPreviousTables: codes.NO_PREVIOUS_TABLES,
        ImportUnderWay: codes.IMPORT_UNDER_WAY,
        ImportStarted: codes.IMPORT_STARTED,
        NoFailedRows: codes.NO_FAILED_ROWS,
        KeyInFlight: codes.IDEMPOTENCY_KEY_IN_FLIGHT,
        KeyReused: codes.IDEMPOTENCY_KEY_REUSED,
        NoConsistentSnapshot: codes.NO_CONSISTENT_SNAPSHOT,
        EntitiesParked: codes.ENTITIES_PARKED,
        TooManyColumns: codes.TOO_MANY_COLUMNS,
    }
)
"""Codes of the refusals of domain, commands, projections and read models."""

CODES_BY_IMPORT_FAULT: Mapping[ImportFault, ErrorCode] = MappingProxyType(
    {
        ImportFault.EMPTY: codes.IMPORT_EMPTY,
        ImportFault.TOO_LARGE: codes.IMPORT_TOO_LARGE,
        ImportFault.NO_TABLE: codes.NOT_A_TABLE,
        ImportFault.ENCODING: codes.WRONG_ENCODING,
        ImportFault.OPTIONS: codes.IMPORT_OPTIONS,
        ImportFault.KIND: codes.NOT_IMPORTABLE,
        ImportFault.UNREADABLE: codes.IMPORT_GONE,
    }
)
"""Codes of faults that concern an import as a whole."""


CODES_BY_EXCEPTION: Sequence[tuple[type[Exception], ErrorCode]] = (
    (InvalidCursor, codes.INVALID_CURSOR),
    (TooMuchHistory, codes.TOO_MUCH_HISTORY),
    (TooManyRequests, codes.DATABASE_BUSY),
    (PoolTimeout, codes.DATABASE_UNREACHABLE),
    (psycopg.errors.QueryCanceled, codes.TIMED_OUT),
    (psycopg.errors.LockNotAvailable, codes.DATABASE_BUSY),
    (psycopg.errors.DeadlockDetected, codes.DATABASE_BUSY),
    (psycopg.errors.SerializationFailure, codes.DATABASE_BUSY),
    *((error, codes.WRITES_REFUSED) for error in WRITES_REFUSED),
    (IntegrityError, codes.WRITE_CONTENTION),
    (psycopg.OperationalError, codes.DATABASE_UNREACHABLE),
    (psycopg.InterfaceError, codes.DATABASE_UNREACHABLE),
    (OperationalError, codes.DATABASE_UNREACHABLE),
    (MapperDeserialisationError, codes.STORED_DATA_UNUSABLE),
    (PersistenceError, codes.STORED_DATA_UNUSABLE),
    (psycopg.Error, codes.STORED_DATA_UNUSABLE),
)
"""Codes of other expected exceptions; the first match counts."""

CODES_BY_FIELD_ERROR: Sequence[tuple[str, ErrorCode]] = (
    ("missing", codes.FIELD_REQUIRED),
    ("string_too_short", codes.FIELD_REQUIRED),
    ("extra_forbidden", codes.UNKNOWN_FIELD),
    ("set_by_command", codes.SET_BY_COMMAND),
    ("enum", codes.NOT_AN_OPTION),
    ("literal_error", codes.NOT_AN_OPTION),
    ("string_too_long", codes.TOO_LONG),
    ("too_long", codes.TOO_LONG),
    ("decimal_", codes.INVALID_NUMBER),
    ("int_", codes.INVALID_NUMBER),
    ("float_", codes.INVALID_NUMBER),
    ("finite_number", codes.INVALID_NUMBER),
    ("greater_than", codes.INVALID_NUMBER),
    ("date_", codes.INVALID_TIME),
    ("datetime_", codes.INVALID_TIME),
    ("timezone_", codes.INVALID_TIME),
)
"""Codes by the beginning of pydantic's error types."""

TITLE_IS_MESSAGE = frozenset({codes.NAME_REQUIRED, codes.FIELD_REQUIRED, codes.UNKNOWN_FIELD})
"""Codes whose title is a better message for a field than the one of pydantic."""


class ApiError(Exception):
    """A request that fails with this code.

    `facts` become members of the problem document, under the same names, none of which is
    `RESERVED`; `errors` name fields. What an error repeats of the request is cut, so that no
    response grows with what it refuses.
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> None:
        assert RESERVED.isdisjoint(facts), facts.keys()
        super().__init__(detail or code.title)
        self.code = code
        self.detail = detail and shortened(detail, DETAIL_MAX_CHARS)
        self.errors = tuple(errors[:ERRORS_SHOWN_MAX])
        self.errors_total = len(errors)
        self.headers = dict(headers or {})
        self.facts = facts


def as_api_error(error: Exception) -> ApiError:
    """Return the error for the API. Unexpected exceptions become E4500."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, refusals.InvalidFields):
        return invalid_fields(error.errors)
    if isinstance(error, BulkRefused):
        outcomes = [failed_item(each) for each in error.outcomes]
        return ApiError(CODES_BY_REFUSAL[BulkRefused], outcomes=outcomes)
    if isinstance(error, ImportRefused):
        return ApiError(CODES_BY_IMPORT_FAULT[error.fault], str(error))
    if isinstance(error, Refusal):
        return ApiError(CODES_BY_REFUSAL[type(error)], str(error), **facts_of(error))
    return ApiError(_code_of_failure(error))


def summarise_error(error: Exception) -> ErrorSummary:
    """Return the error as a job reports it: its code, and a sentence."""
    api_error = as_api_error(error)
    return ErrorSummary(api_error.code.code, api_error.detail or api_error.code.title)


def failed_item(item: ItemOutcome) -> dict[str, Any]:
    """Return the outcome of a failed item: `{id, status, problem: {code, …}}`."""
    assert item.error is not None
    found = as_api_error(item.error)
    problem: dict[str, Any] = {
        **found.facts,
        "code": found.code.code,
        "title": found.code.title,
        "detail": found.detail or found.code.title,
    }
    if found.errors:
        problem["errors"] = [field_problem(each) for each in found.errors[:ITEM_ERRORS_SHOWN_MAX]]
    return {"id": str(item.entity_id), "status": found.code.status, "problem": problem}


def invalid_fields(errors: Sequence[FieldError]) -> ApiError:
    """Return an error for these fields, with the code that all of them share, or E2003."""
    shared = {code_of_field(each) for each in errors}
    code = shared.pop() if len(shared) == 1 else codes.INVALID_FIELDS
    shown = map(field_problem, errors[:ERRORS_SHOWN_MAX])
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in shown)
    return ApiError(code, detail, errors=errors)


def code_of_field(error: FieldError) -> ErrorCode:
    """Return the code of one field error."""
    name = error.field.rpartition(".")[2]
    found = next(
        (code for prefix, code in CODES_BY_FIELD_ERROR if error.kind.startswith(prefix)),
        codes.INVALID_VALUE,
    )
    if name in NAMES and found is codes.FIELD_REQUIRED:
        return codes.NAME_REQUIRED
    if name == "email" and found is codes.INVALID_VALUE:
        return codes.INVALID_EMAIL
    return found


def dictionary() -> list[dict[str, Any]]:
    """Return all codes as GET /api/errors serves them."""
    return [dataclasses.asdict(each) for each in CODES.values()]


def documentation() -> str:
    """Return the content of docs/errors.md."""
    lines = [
        "# Error codes",
        "",
        "Every error is a problem document (RFC 9457, `application/problem+json`) with `type`,",
        "`title`, `status`, `detail`, `instance`, `code` and `requestId`, with",
        "`errors: [{field, code, message}]` if fields are not valid, and with details of the case.",
        f"`errors` has at most {ERRORS_SHOWN_MAX} members; `errorsTotal` says how many there are if"
        " they are more.",
        "`GET /api/errors` serves this list. This page is generated from runtime/codes by",
        "`python -m runtime.errors`.",
        "",
        "| code | status | for the user | for support |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {each.code} | {each.status} | {each.title} | {each.explanation} |"
        for each in CODES.values()
    ]
    return "\n".join(lines) + "\n"


def field_problem(error: FieldError) -> dict[str, str]:
    """Return a field error as problem documents show it: `{field, code, message}`."""
    code = code_of_field(error)
    message = code.title if code in TITLE_IS_MESSAGE else error.message
    return {
        "field": shortened(error.field, FIELD_SHOWN_MAX_CHARS),
        "code": code.code,
        "message": shortened(message, DETAIL_MAX_CHARS),
    }


def facts_of(refusal: Any) -> dict[str, Any]:
    """Return the attributes of a refusal, or of a part of one, by wire name, as JSON."""
    assert dataclasses.is_dataclass(refusal)
    facts: dict[str, Any] = {}
    for field in dataclasses.fields(refusal):
        name, value = to_camel(field.name), getattr(refusal, field.name)
        facts[name] = _wire(value)
        if isinstance(value, list) and len(value) > FACTS_SHOWN_MAX:
            facts[f"{name}Total"] = len(value)
    return facts


def _wire(value: Any) -> Any:
    if isinstance(value, list):
        return [_wire(each) for each in value[:FACTS_SHOWN_MAX]]
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value):
        return facts_of(value)
    if isinstance(value, str):
        return shortened(value, DETAIL_MAX_CHARS)
    return str(value) if isinstance(value, UUID) else value


def _code_of_failure(error: Exception) -> ErrorCode:
    # The log raises errors of the eventsourcing library; the error of PostgreSQL is their cause.
    has_cause = isinstance(error, PersistenceError) and not isinstance(error, IntegrityError)
    for cause in (error.__cause__ if has_cause else None, error):
        for exception, code in CODES_BY_EXCEPTION:
            if isinstance(cause, exception):
                return code
    return codes.UNEXPECTED


if __name__ == "__main__":
    import sys

    sys.stdout.write(documentation())
