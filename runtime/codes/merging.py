"""E5050 to E5059: merging, and undo of merges and of large commands."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

MERGED_AWAY = ErrorCode(
    "E5050",
    410,
    "It was merged into another one.",
    "`mergedInto` is the entity that it was merged into, `survivorId` the one that exists now."
    " Its own /history can still be read; that of the survivor shows both with `includeMerged`.",
)
WAS_MERGED = ErrorCode(
    "E5051",
    409,
    "It was merged into another one; change that one, or undo the merge.",
    "`mergedInto` is the entity to change. To undo the merge, undo the command that its history"
    " names.",
)
MERGE_REFUSED = ErrorCode(
    "E5052",
    422,
    "These two cannot be merged.",
    "They are the same entity, or accounts of different types: change the type of one first.",
)
TOO_MUCH_TO_MERGE = ErrorCode(
    "E5053",
    422,
    "Too many entities belong to the account to move them at once.",
    "`count` entities would be moved; the maximum is `limit`. Merge the smaller account into the"
    " larger one.",
)
PART_OF_A_WHOLE = ErrorCode(
    "E5054",
    409,
    "This is part of a command that can only be undone as a whole.",
    "A merge is undone as a whole, by its `commandId`.",
)
OPERATION_IN_PROGRESS = ErrorCode(
    "E5055",
    409,
    "The operation is still in progress.",
    "`jobId` is its job. Wait until the job ends, or cancel it; then undo what it did.",
)
