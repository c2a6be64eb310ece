"""E211x and E301x: streams of changes."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

INVALID_LAST_EVENT_ID = ErrorCode(
    "E2110",
    400,
    "Last-Event-ID is not valid.",
    "Last-Event-ID (or `lastEventId`) is the `id` of an event that was received: a whole number,"
    " not negative. 0 means the beginning of the log.",
)
POSITION_AHEAD = ErrorCode(
    "E2111",
    409,
    "Last-Event-ID is beyond the end of the log.",
    "`lastEventId` is greater than `lastPosition`, the last position assigned. It comes from"
    " another installation, or the log was restored from an older backup: read everything again,"
    " and follow without a Last-Event-ID.",
)
TOO_MANY_SUBSCRIBERS_OF_KEY = ErrorCode(
    "E2112",
    429,
    "This API key has too many streams of changes.",
    "The maximum per process is `max`, the setting ANNALS_REALTIME_SUBSCRIBERS_PER_KEY_MAX. Close"
    " streams that are not read.",
)
TOO_MANY_SUBSCRIBERS_OF_WORKSPACE = ErrorCode(
    "E2113",
    429,
    "This workspace has too many streams of changes.",
    "The maximum per process is `max`, the setting ANNALS_REALTIME_SUBSCRIBERS_PER_WORKSPACE_MAX,"
    " so that one workspace cannot take the streams of all others.",
)
TOO_MANY_SUBSCRIBERS = ErrorCode(
    "E3010",
    503,
    "Too many clients follow changes at the moment.",
    "The maximum of this process is `max`, the setting ANNALS_REALTIME_SUBSCRIBERS_MAX.",
)
SHUTTING_DOWN = ErrorCode(
    "E3011",
    503,
    "The service is stopping and accepts no new streams.",
    "Reconnect with Last-Event-ID to another process, or to this one after its restart.",
)
