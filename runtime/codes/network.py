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
UNEXPECTED = ErrorCode(
    "E4500",
    500,
    "An unexpected error occurred.",
    "The server's log has the error with its traceback under the request id.",
)
