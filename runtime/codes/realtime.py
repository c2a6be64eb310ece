"""E211x and E301x: following changes as they happen."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

INVALID_LAST_EVENT_ID = ErrorCode(
    "E2110",
    400,
    "The place from which to go on is not valid.",
    "Last-Event-ID (or `lastEventId`) is the `id` of something heard before: a whole number, not"
    " negative. 0 means from the beginning.",
)
POSITION_AHEAD = ErrorCode(
    "E2111",
    409,
    "The place from which to go on lies beyond the end of the log.",
    "`lastEventId` is greater than `lastPosition`, the last position given out. It comes from"
    " another installation, or the log was restored from an older backup: read anew what is shown,"
    " and follow from now on, without a Last-Event-ID.",
)
TOO_MANY_SUBSCRIBERS_OF_KEY = ErrorCode(
    "E2112",
    429,
    "This API key follows changes too many times at once.",
    "The limit is ANNALS_REALTIME_SUBSCRIBERS_PER_KEY_MAX for each process; `max` tells it. Close"
    " streams that nobody reads.",
)
TOO_MANY_SUBSCRIBERS = ErrorCode(
    "E3010",
    503,
    "Too many clients follow changes at the moment.",
    "This process has as many subscribers as ANNALS_REALTIME_SUBSCRIBERS_MAX allows; `max` tells"
    " it.",
)
SHUTTING_DOWN = ErrorCode(
    "E3011",
    503,
    "The service is stopping and begins no new streams.",
    "Another process, or this one after its restart, goes on from Last-Event-ID.",
)
