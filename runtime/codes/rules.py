"""E5xxx: business rules."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

OPEN_OPPORTUNITIES = ErrorCode(
    "E5001",
    409,
    "Cannot delete an organization with active opportunities.",
    "`opportunityIds` are the open opportunities. Win, lose or delete them first.",
)
NOT_FOUND = ErrorCode(
    "E5002",
    404,
    "There is no such thing in this workspace.",
    "The id was never used, or belongs to another workspace or kind; or the entity is deleted"
    " (its /history can still be read), or did not exist at the requested time.",
)
IS_DELETED = ErrorCode(
    "E5003",
    409,
    "It is deleted; restore it first.",
    "POST …/restore restores it.",
)
TRANSITION_REFUSED = ErrorCode(
    "E5004",
    409,
    "The status cannot change in this way.",
    "`before` is the current status, `after` the requested one, `allowed` the possible ones.",
)
ACCOUNT_UNAVAILABLE = ErrorCode(
    "E5005",
    422,
    "The account that this belongs to does not exist or is deleted.",
    "`accountId` is the requested account.",
)
NOT_A_MEMBER = ErrorCode(
    "E5006",
    422,
    "The person is not a member of this workspace.",
    "`memberId` is the value of `assignedTo` or `memberId`.",
)
OCCURRED_TOO_EARLY = ErrorCode(
    "E5007",
    409,
    "It cannot have occurred before the last recorded event.",
    "`lastOccurredAt` is the time of the last known change. Only imports can cause this.",
)
STALE_VERSION = ErrorCode(
    "E5008",
    412,
    "It has changed since it was read.",
    "If-Match required the version `expected`, but the version is `actual`. Read the entity again"
    " before you repeat the change.",
)
KEY_REVOKED = ErrorCode(
    "E5009",
    409,
    "The API key is revoked; a revoked key cannot be restored.",
    "Issue a new key.",
)
PATCH_TEST_FAILED = ErrorCode(
    "E5010",
    409,
    "A test of the JSON Patch failed.",
    "`operation` is the index of the test, `path` what it compared. Nothing was changed.",
)
PATCH_NOT_APPLICABLE = ErrorCode(
    "E5011",
    409,
    "The JSON Patch does not fit the entity.",
    "The path of the operation with index `operation` does not exist. Nothing was changed.",
)
TOO_MUCH_HISTORY = ErrorCode(
    "E5012",
    422,
    "There is too much history to compute this list as of that time.",
    "A list as of a time is folded from its events, at most AS_OF_EVENTS_MAX.",
)

IDEMPOTENCY_KEY_IN_FLIGHT = ErrorCode(
    "E5013",
    409,
    "A request with this idempotency key is still in progress.",
    "Repeat the request with the same key after `Retry-After` seconds to get the response of the"
    " first one. If the first one failed, the request is then executed.",
)
UNDO_CONFLICT = ErrorCode(
    "E5014",
    409,
    "Undo would overwrite later changes.",
    "`conflicts` names each field with the position and the actor of the later change. Those with"
    " `canForce` are overwritten if `force` names the field. The others have to be resolved"
    " first, such as entities added to an account that undo would remove.",
)
ALREADY_UNDONE = ErrorCode(
    "E5015",
    409,
    "It has already been undone.",
    "`undonePosition` and `undoneBy` are the event and the command that undid it; undo that"
    " command to redo it.",
)
NOT_UNDOABLE = ErrorCode(
    "E5016",
    409,
    "This cannot be undone.",
    "It has had effects outside of Annals: an API key was issued or revoked, a message was sent,"
    " or a workspace was created. `positions` are these events.",
)
NOTHING_TO_UNDO = ErrorCode(
    "E5017",
    404,
    "There is no such change in this workspace.",
    "No event has this position, or the command recorded no event: a command that changes nothing"
    " records nothing.",
)
TOO_MUCH_TO_UNDO = ErrorCode(
    "E5018",
    422,
    "These are too many changes to undo at once.",
    "They have more than `limit` events.",
)
PROJECTION_JOB_IN_PROGRESS = ErrorCode(
    "E5020",
    409,
    "A job on this projection is already in progress.",
    "A rebuild, a rollback or a retry is waiting or running; GET /api/projections/{name}/rebuilds"
    " shows it. Wait until it ends, or cancel it.",
)
PROJECTION_JOB_ENDED = ErrorCode(
    "E5021",
    409,
    "The job has already ended.",
    "A finished job cannot be cancelled. POST /api/projections/{name}/rollback reverts a rebuild.",
)
NO_PREVIOUS_TABLES = ErrorCode(
    "E5022",
    409,
    "There are no previous tables to roll back to.",
    "Only the tables from before the last swap are kept, and this projection was never swapped.",
)
