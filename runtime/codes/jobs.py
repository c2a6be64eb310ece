"""E205x and E503x: jobs and bulk operations."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

TOO_MANY_ITEMS = ErrorCode(
    "E2050",
    422,
    "There are too many items for one bulk operation.",
    "`found` items were named or matched the filter; `limit` is the maximum: JOB_ITEMS_MAX, or"
    " ATOMIC_ITEMS_MAX with `atomic`. Nothing was changed.",
)
TOO_MANY_JOB_FOLLOWERS = ErrorCode(
    "E2051",
    503,
    "Too many clients follow jobs at the moment.",
    "A process serves at most `limit` streams of progress, the setting ANNALS_JOB_FOLLOWERS_MAX."
    " GET /api/jobs/{id} returns the same data.",
)
TOO_MANY_JOB_FOLLOWERS_OF_WORKSPACE = ErrorCode(
    "E2052",
    429,
    "This workspace follows too many jobs at the moment.",
    "The maximum per process is `limit`, the setting ANNALS_JOB_FOLLOWERS_PER_WORKSPACE_MAX."
    " GET /api/jobs/{id} returns the same data.",
)
TOO_MANY_OPEN_JOBS = ErrorCode(
    "E5035",
    429,
    "This workspace has too many jobs that have not ended.",
    "The maximum is `limit`, the setting ANNALS_JOBS_PER_WORKSPACE_MAX, so that one workspace"
    " cannot take the workers of all others. Nothing was changed. Wait until a job has ended, or"
    " cancel one.",
)
JOB_ENDED = ErrorCode(
    "E5030",
    409,
    "The job has already ended.",
    "`endedAs` is its final status. Cancelling does not revert what it did: POST /api/undo with"
    " its `commandId` does.",
)
TOO_MANY_FRUITLESS_RUNS = ErrorCode(
    "E5032",
    409,
    "The job was given up.",
    "`runs` runs of it in a row, at most FRUITLESS_RUNS_MAX, ended by a failure or with their"
    " process before they had done anything. The log of the workers has the reason.",
)
BULK_REFUSED = ErrorCode(
    "E5031",
    409,
    "Some of the items cannot be changed, so none was.",
    "`atomic` was requested. `outcomes` names each item that cannot be changed, with its problem.",
)
