"""E1xxx: authentication and access."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

INVALID_LOGIN = ErrorCode(
    "E1001",
    401,
    "Invalid email or password.",
    "Reserved for signing in by password. The API itself lets clients in by API key.",
)
SESSION_EXPIRED = ErrorCode(
    "E1002",
    401,
    "Session expired.",
    "Reserved for sessions of people. API keys expire with E1006.",
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
    "The Authorization header is not `Bearer` followed by a token that Annals issued; often the"
    " token was cut when it was copied.",
)
UNKNOWN_KEY = ErrorCode(
    "E1005",
    401,
    "The API key is not valid.",
    "There is no such key, it was revoked, or the secret does not belong to it. Which of them is"
    " not said on purpose. A revoked key is refused within a second by every process.",
)
KEY_EXPIRED = ErrorCode(
    "E1006",
    401,
    "The API key has expired.",
    "The key's `expiresAt` has passed. An admin issues a new one with POST /api/keys.",
)
MEMBER_LEFT = ErrorCode(
    "E1007",
    401,
    "The member whom this API key stands for has left the workspace.",
    "The key has a `memberId` and that member was deleted. Restore the member or issue a new key.",
)
FORBIDDEN = ErrorCode(
    "E1008",
    403,
    "This API key may not do that.",
    "The role of the key lacks the permission named in `permission`; `role` is the key's role."
    " The table of roles is in commands/permissions.py.",
)
METRICS_FORBIDDEN = ErrorCode(
    "E1009",
    403,
    "The metrics are not for you.",
    "Without ANNALS_METRICS_TOKEN they are shown to requests from the same machine only, and not"
    " through a proxy; with it, to whoever sends it as `Authorization: Bearer`.",
)
