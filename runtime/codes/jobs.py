"""Jobs and bulk operations."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

TOO_MANY_ITEMS = ErrorCode(
    "E2050",
    422,
    "That is too many items for one bulk operation.",
    "`found` items were named or matched the filter, `limit` is the most: JOB_ITEMS_MAX, or"
    " ATOMIC_ITEMS_MAX where `atomic` is asked for. Nothing was changed.",
)
TOO_MANY_JOB_FOLLOWERS = ErrorCode(
    "E2051",
    503,
    "Too many follow jobs here at once.",
    "A process serves FOLLOWERS_MAX streams of progress. GET /api/jobs/{id} tells the same.",
)
JOB_ENDED = ErrorCode(
    "E5030",
    409,
    "The job has ended already.",
    "`endedAs` says how. What it did is not undone by cancelling: POST /api/undo with its"
    " `commandId` takes it back.",
)
BULK_REFUSED = ErrorCode(
    "E5031",
    409,
    "Some of the items cannot be changed, so none was.",
    "`atomic` was asked for. `outcomes` names each that cannot be changed, with the problem.",
)
