"""E506x and E209x: commands on leads and appointments."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

SET_BY_COMMAND = ErrorCode(
    "E2095",
    422,
    "This field is set by a command.",
    "Facts such as what a lead was converted into or when an appointment was confirmed are"
    " recorded by commands and cannot be written directly. Undo reverts such a command.",
)
STATUS_UNCHANGED = ErrorCode(
    "E5060",
    409,
    "It already has this status.",
    "`status` is the current status. Nothing was recorded.",
)
ALREADY_CONVERTED = ErrorCode(
    "E5061",
    409,
    "The lead has already been converted.",
    "`accountId`, `contactId` and `opportunityId` are the entities created from it. Undo of the"
    " conversion removes them.",
)
NOTHING_UPDATED = ErrorCode(
    "E5062",
    409,
    "Nothing was changed, because some of the leads could not be changed.",
    "`atomic` was requested. `errors` names each lead that could not be changed, with its own"
    " code.",
)
REFERENCE_UNAVAILABLE = ErrorCode(
    "E5063",
    422,
    "The entity that a field refers to does not exist or is deleted.",
    "`field` is the field, `entityId` its value, and `kind` the kind of entity that it must refer"
    " to.",
)
TIME_TAKEN = ErrorCode(
    "E5064",
    409,
    "The member is not free at that time.",
    "`taken` lists the appointments at that time that are scheduled, confirmed or completed."
    " `allowOverlap: true` allows the overlap. Nothing was recorded.",
)
ALREADY_CONFIRMED = ErrorCode(
    "E5065",
    409,
    "The appointment has already been confirmed.",
    "`confirmedAt` and `confirmedBy` say when and by whom. For compatibility `code` is"
    " `ALREADY_CONFIRMED`, and `errorCode` is this code.",
    known_as="ALREADY_CONFIRMED",
)
