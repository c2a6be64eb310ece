"""E5xxx: business rules."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

OPEN_OPPORTUNITIES = ErrorCode(
    "E5001",
    409,
    "Cannot delete an organization with active opportunities.",
    "`opportunityIds` are those that are still open; win, lose or delete them first.",
)
NOT_FOUND = ErrorCode(
    "E5002",
    404,
    "There is no such thing in this workspace.",
    "The id was never used, belongs to another workspace or kind, or the thing is deleted (its"
    " /history still answers), or did not exist at the time asked for.",
)
IS_DELETED = ErrorCode(
    "E5003",
    409,
    "It is deleted; restore it first.",
    "POST …/restore brings it back as it was.",
)
TRANSITION_REFUSED = ErrorCode(
    "E5004",
    409,
    "The status cannot change in this way.",
    "`before` is the status now, `after` the one asked for, `allowed` those that can follow.",
)
ACCOUNT_UNAVAILABLE = ErrorCode(
    "E5005",
    422,
    "The account that this belongs to does not exist or is deleted.",
    "`accountId` is the account asked for.",
)
NOT_A_MEMBER = ErrorCode(
    "E5006",
    422,
    "The person is not a member of this workspace.",
    "`memberId` is the one given as `assignedTo` or `memberId`.",
)
OCCURRED_TOO_EARLY = ErrorCode(
    "E5007",
    409,
    "It cannot have occurred before what is already recorded.",
    "`lastOccurredAt` is the time of the last change that is known; imports meet this.",
)
STALE_VERSION = ErrorCode(
    "E5008",
    412,
    "It has changed since it was read.",
    "If-Match named the version `expected`, the version is `actual`. Read it again, decide again.",
)
KEY_REVOKED = ErrorCode(
    "E5009",
    409,
    "The API key is revoked and stays so.",
    "Issue a new one.",
)
PATCH_TEST_FAILED = ErrorCode(
    "E5010",
    409,
    "A test of the JSON Patch failed.",
    "`operation` is the index of the test, `path` what it looked at. Nothing was changed.",
)
PATCH_NOT_APPLICABLE = ErrorCode(
    "E5011",
    409,
    "The JSON Patch does not fit what is there.",
    "The path of the operation with index `operation` does not exist. Nothing was changed.",
)
TOO_MUCH_HISTORY = ErrorCode(
    "E5012",
    422,
    "There is too much history to look that far back in one answer.",
    "A list as of a time is folded from its events, AS_OF_EVENTS_MAX at the most.",
)

IDEMPOTENCY_KEY_IN_FLIGHT = ErrorCode(
    "E5013",
    409,
    "A request with this idempotency key is still being worked on.",
    "Ask again after `Retry-After` seconds with the same key: the answer is the first one's. Where"
    " the first one failed, it is then done as if for the first time.",
)
UNDO_CONFLICT = ErrorCode(
    "E5014",
    409,
    "Something was changed since, which undoing would overwrite.",
    "`conflicts` names each field with the position and the actor of the later change. Those with"
    " `canForce` are overwritten where `force` names the field; the others have to be cleared up"
    " first, such as what was added to an account that would go.",
)
ALREADY_UNDONE = ErrorCode(
    "E5015",
    409,
    "It has been undone already.",
    "`undonePosition` and `undoneBy` are the event and the command that did; undo that command to"
    " have it again.",
)
NOT_UNDOABLE = ErrorCode(
    "E5016",
    409,
    "This cannot be undone.",
    "It has left the house: an API key was handed out or revoked, a message was sent, a workspace"
    " was founded. `positions` are the events concerned.",
)
NOTHING_TO_UNDO = ErrorCode(
    "E5017",
    404,
    "There is no such change in this workspace.",
    "No event has the position, or no event was recorded by the command: one that changes nothing"
    " records nothing.",
)
TOO_MUCH_TO_UNDO = ErrorCode(
    "E5018",
    422,
    "That is too much to undo at once.",
    "More events than `limit` belong to it.",
)
PROJECTION_JOB_IN_PROGRESS = ErrorCode(
    "E5020",
    409,
    "Something is done to this projection already.",
    "A rebuild, a rollback or a retry waits or runs; GET /api/projections/{name}/rebuilds shows"
    " it. Wait for its end, or cancel it.",
)
PROJECTION_JOB_ENDED = ErrorCode(
    "E5021",
    409,
    "It has ended already.",
    "What is done is not undone by cancelling: POST /api/projections/{name}/rollback goes back.",
)
NO_PREVIOUS_TABLES = ErrorCode(
    "E5022",
    409,
    "There is nothing from before to go back to.",
    "Only the tables from before the last swap are kept, and this projection was never swapped.",
)
