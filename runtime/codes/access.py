"""E1xxx: authentication and access."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

INVALID_LOGIN = ErrorCode(
    "E1001",
    401,
    "Invalid email or password.",
    "Reserved for login by password. The API itself authenticates clients by API key.",
)
SESSION_EXPIRED = ErrorCode(
    "E1002",
    401,
    "Session expired.",
    "Reserved for login sessions. API keys expire with E1006.",
)
NO_CREDENTIALS = ErrorCode(
    "E1003",
    401,
    "Authentication is required.",
    "The request has no Authorization header. Send `Authorization: Bearer <token>`.",
)
MALFORMED_CREDENTIALS = ErrorCode(
    "E1004",
    401,
    "The credentials cannot be read.",
    "The Authorization header is not `Bearer` followed by a token that Annals issued. Often the"
    " token was truncated when it was copied.",
)
UNKNOWN_KEY = ErrorCode(
    "E1005",
    401,
    "The API key is not valid.",
    "The key does not exist, it was revoked, or the secret is wrong. Which of these is the case"
    " is deliberately not revealed. Every process refuses a revoked key within a second.",
)
KEY_EXPIRED = ErrorCode(
    "E1006",
    401,
    "The API key has expired.",
    "The key's `expiresAt` has passed. An admin can issue a new one with POST /api/keys.",
)
MEMBER_LEFT = ErrorCode(
    "E1007",
    401,
    "The member whom this API key acts for has left the workspace.",
    "The key has a `memberId`, and that member was deleted. Restore the member or issue a new key.",
)
FORBIDDEN = ErrorCode(
    "E1008",
    403,
    "This API key is not allowed to do that.",
    "The role of the key (`role`) lacks the permission `permission`. The permissions of each role"
    " are in commands/permissions.py.",
)
METRICS_FORBIDDEN = ErrorCode(
    "E1009",
    403,
    "Access to the metrics is denied.",
    "Without ANNALS_METRICS_TOKEN, only requests from the same machine that came through no proxy"
    " may read them; with it, requests that send it as `Authorization: Bearer`."
    " An operator key always may.",
)
OPERATOR_HAS_NO_WORKSPACE = ErrorCode(
    "E1021",
    403,
    "An operator key belongs to no workspace.",
    "Operator keys operate the installation and cannot read or change a tenant's data. Use an API"
    " key of the workspace.",
)
OPERATOR_REQUIRED = ErrorCode(
    "E1022",
    403,
    "Only an operator may do that.",
    "Projections, their jobs and their progress span all workspaces, so no tenant's key is enough,"
    " whatever its role. `annals operators issue` makes an operator key.",
)
TOO_MANY_AUTH_FAILURES = ErrorCode(
    "E1030",
    429,
    "Too many invalid credentials came from this address.",
    "One client address may send ANNALS_RATE_AUTH_FAILURES_PER_MINUTE invalid credentials. Until"
    " `Retry-After` has passed, the process serves only keys from there that it knows already.",
)
