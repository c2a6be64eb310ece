"""E4xxx: network and time."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

TIMED_OUT = ErrorCode(
    "E4001",
    504,
    "Request timed out.",
    "The database did not respond within the statement timeout. Nothing was recorded.",
)
BODY_TIMED_OUT = ErrorCode(
    "E4002",
    408,
    "The request did not arrive in time.",
    "The body was not complete within ANNALS_BODY_TIMEOUT_S seconds.",
)
HEAD_TIMED_OUT = ErrorCode(
    "E4003",
    408,
    "The request did not arrive in time.",
    "The head of the request was not complete within ANNALS_HTTP_HEAD_TIMEOUT_S seconds. The"
    " connection is closed.",
)
HEAD_TOO_LARGE = ErrorCode(
    "E4004",
    431,
    "The request's headers are too large.",
    "A request may have ANNALS_HTTP_HEADERS_MAX headers and a head of ANNALS_HTTP_HEAD_MAX_BYTES"
    " bytes. The connection is closed.",
)
URL_TOO_LONG = ErrorCode(
    "E4005",
    414,
    "The request's URL is too long.",
    "A URL may have ANNALS_HTTP_URL_MAX_BYTES bytes. The connection is closed.",
)
TOO_MANY_CONNECTIONS = ErrorCode(
    "E4006",
    503,
    "There are too many connections.",
    "This process serves ANNALS_HTTP_CONNECTIONS_MAX connections at once, and"
    " ANNALS_HTTP_CONNECTIONS_PER_ADDRESS_MAX of one client address. The connection is closed.",
)
TOO_MANY_REQUESTS = ErrorCode(
    "E4020",
    429,
    "Too many requests.",
    "The quota `policy` allows `limit` requests within `windowSeconds`: ANNALS_RATE_…_PER_MINUTE"
    " (or ANNALS_RATE_BY_ROLE) for a key, and ANNALS_RATE_WORKSPACE_KEYS times as many for its"
    " workspace, if the name begins with `workspace-`. `Retry-After` says when to repeat the"
    " request; the headers `RateLimit` and `RateLimit-Policy` of every response show what is left.",
)
HOST_NOT_ALLOWED = ErrorCode(
    "E4021",
    421,
    "This host is not served here.",
    "The header Host names none of ANNALS_ALLOWED_HOSTS, or the request has none or several.",
)
UNEXPECTED = ErrorCode(
    "E4500",
    500,
    "An unexpected error occurred.",
    "The server's log has the error with its traceback under the request id.",
)
