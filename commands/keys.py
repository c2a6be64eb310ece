"""API keys: issue, parse and verify. The secret is shown once; the log keeps its SHA-256.

A fast hash is enough because a secret has 256 random bits. OWASP advises slow hashes for secrets
that people choose.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from commands.decisions import CommandOutcome
from commands.entities import EntityCommands
from domain.api_key import OPERATORS, ApiKey, Role
from domain.shared.refusals import FieldError, InvalidFields
from eventlog.scope import Scope

PREFIX = "annals"
SECRET_BYTES = 32


@dataclass(frozen=True)
class IssuedKey:
    """The outcome of issuing a key, and the token, which is shown only once."""

    outcome: CommandOutcome
    token: str


def issue_key(commands: EntityCommands, scope: Scope, fields: Mapping[str, Any]) -> IssuedKey:
    """Issue a key with these fields and a new secret. Raises `InvalidFields`."""
    require_workspace_of_role(scope, fields)
    secret = secrets.token_urlsafe(SECRET_BYTES)
    outcome = commands.create(scope, ApiKey, {**fields, "secretSha256": digest(secret)})
    return IssuedKey(outcome, f"{PREFIX}_{outcome.entity.id.hex}_{secret}")


def require_workspace_of_role(scope: Scope, fields: Mapping[str, Any]) -> None:
    """Refuse an operator key in a tenant's workspace, and any other key in that of the operators.

    Raises `InvalidFields`.
    """
    if (fields.get("role") == Role.OPERATOR) != (scope.workspace_id == OPERATORS):
        raise InvalidFields(
            [FieldError("role", "literal_error", "is operator for operator keys only")]
        )


def parse_token(token: str) -> tuple[UUID, str] | None:
    """Return key id and secret of a token, None for a malformed one."""
    prefix, _, rest = token.partition("_")
    key_hex, _, secret = rest.partition("_")
    if prefix != PREFIX or not secret:
        return None
    try:
        return UUID(hex=key_hex), secret
    except ValueError:
        return None


def digest(secret: str) -> str:
    """SHA-256 of the secret, in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, secret_sha256: str) -> bool:
    """Whether the secret has this hash, compared in constant time."""
    return hmac.compare_digest(digest(secret), secret_sha256)
