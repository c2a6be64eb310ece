"""E506x and E209x: leads, appointments and what else has commands of its own."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

SET_BY_COMMAND = ErrorCode(
    "E2095",
    422,
    "This field is set by a command of its own.",
    "What a lead was converted into, when an appointment was confirmed and the like are facts that"
    " a command records; they cannot be written by hand. Undo takes such a command back.",
)
STATUS_UNCHANGED = ErrorCode(
    "E5060",
    409,
    "It has this status already.",
    "`status` is the status that it has. Nothing was recorded.",
)
ALREADY_CONVERTED = ErrorCode(
    "E5061",
    409,
    "The lead was converted before.",
    "`accountId`, `contactId` and `opportunityId` are what it became. Undo of the conversion takes"
    " them away again.",
)
NOTHING_UPDATED = ErrorCode(
    "E5062",
    409,
    "Nothing was changed, for some of them could not be.",
    "`atomic` asked for all or nothing. `errors` names each that hindered it, with its own code;"
    " the others would have been changed.",
)
REFERENCE_UNAVAILABLE = ErrorCode(
    "E5063",
    422,
    "What a field refers to does not exist or is deleted.",
    "`field` is the field, `entityId` what it names, `kind` what that would have to be.",
)
TIME_TAKEN = ErrorCode(
    "E5064",
    409,
    "The member has something else at that time.",
    "`taken` names what lies there: appointments that are scheduled, confirmed or completed."
    " `allowOverlap: true` puts the appointment beside it. Nothing was recorded.",
)
ALREADY_CONFIRMED = ErrorCode(
    "E5065",
    409,
    "The appointment was confirmed before.",
    "`confirmedAt` and `confirmedBy` say when and by whom. `code` is `ALREADY_CONFIRMED`, which"
    " clients know, and `errorCode` is this one.",
    known_as="ALREADY_CONFIRMED",
)
