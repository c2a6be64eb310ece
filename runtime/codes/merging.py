"""E5050 to E5059: merging, and undoing what is large."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

MERGED_AWAY = ErrorCode(
    "E5050",
    410,
    "It was merged into another one.",
    "`mergedInto` is the one that it was merged into, `survivorId` the one that this is by now. Its"
    " own /history still answers; that of the survivor shows both with `includeMerged`.",
)
WAS_MERGED = ErrorCode(
    "E5051",
    409,
    "It was merged into another one; change that one, or undo the merge.",
    "`mergedInto` is the one to change. The merge is undone by the command that its history names.",
)
MERGE_REFUSED = ErrorCode(
    "E5052",
    422,
    "These two cannot be merged.",
    "They are one and the same, or accounts of different types: change the type of one first.",
)
TOO_MUCH_TO_MERGE = ErrorCode(
    "E5053",
    422,
    "Too much hangs on the account to move at once.",
    "`count` things would move, `limit` may. Merge the smaller account into the larger one.",
)
PART_OF_A_WHOLE = ErrorCode(
    "E5054",
    409,
    "This is part of a whole that is undone as one.",
    "A merge is undone as a whole: by `commandId`.",
)
OPERATION_IN_PROGRESS = ErrorCode(
    "E5055",
    409,
    "The operation is still under way.",
    "`jobId` is the job that does it: wait for its end, or cancel it, and undo what it did then.",
)
