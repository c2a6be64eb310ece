"""E506x and E209x: leads, appointments and proposals."""

from __future__ import annotations

from api.codes.code import ErrorCode

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
