"""Who is let in, and what each role may do."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from commands.keys import matches, parse_token
from domain.api_key import Role
from domain.member import Member
from domain.shared.refusals import NotFound
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from readmodels.keys import KeyRow, find_key
from readmodels.pool import ReadPool
from runtime import codes
from runtime.codes.code import ErrorCode
from runtime.errors import ApiError

KEY_CACHE_TTL_S = 1.0
"""How long a key is trusted without looking again: a revoked key works no longer than this."""
KEY_CACHE_MAX = 10_000
TOKEN_MAX_CHARS = 256


class Permission(StrEnum):
    """What a route asks of whoever calls it."""

    READ = "read"
    WRITE = "write"
    HISTORY = "history"
    """What something was before: its history, and reads as of a time."""
    AUDIT = "audit"
    """The trail of the whole workspace, with addresses and user agents."""
    MEMBERS = "members"
    KEYS = "keys"
    WORKSPACE = "workspace"
    PROJECTIONS = "projections"
    OPERATE = "operate"
    """Rebuild projections, roll them back, retry what is parked: for all workspaces at once."""


ROLES: Mapping[Role, frozenset[Permission]] = MappingProxyType(
    {
        Role.ADMIN: frozenset(Permission),
        Role.MEMBER: frozenset({Permission.READ, Permission.WRITE, Permission.HISTORY}),
        Role.AUDITOR: frozenset({Permission.READ, Permission.HISTORY, Permission.AUDIT}),
        Role.ANALYST: frozenset({Permission.READ, Permission.HISTORY, Permission.PROJECTIONS}),
        Role.READ_ONLY: frozenset({Permission.READ}),
    }
)
"""Which role may do what."""


@dataclass(frozen=True)
class Caller:
    """Whoever sent the request: the key, its workspace and role, and whom its events will name."""

    key_id: UUID
    workspace_id: UUID
    role: Role
    actor: Actor

    def require(self, permission: Permission) -> None:
        """Raise 403 E1008 where the role lacks the permission."""
        if permission not in ROLES[self.role]:
            raise ApiError(codes.FORBIDDEN, permission=permission.value, role=self.role.value)


@dataclass(frozen=True)
class _Known:
    row: KeyRow
    actor: Actor | None
    """None where the member whom the key stands for has left."""
    until_s: float


class Authenticator:
    """Finds the caller for a token. Lives in the event loop."""

    def __init__(self, pool: ReadPool, log: EventLog, clock: Callable[[], datetime]) -> None:
        self._pool = pool
        self._log = log
        self._clock = clock
        self._cache: dict[UUID, _Known] = {}

    async def caller(self, token: str) -> Caller:
        """Whoever holds the token. Raises 401 with E1004 to E1007."""
        parsed = parse_token(token) if len(token) <= TOKEN_MAX_CHARS else None
        if parsed is None:
            raise refused(codes.MALFORMED_CREDENTIALS)
        key_id, secret = parsed
        known = await self._known(key_id)
        if known is None or not matches(secret, known.row.secret_sha256):
            raise refused(codes.UNKNOWN_KEY)
        if known.row.expires_at is not None and known.row.expires_at <= self._clock():
            raise refused(codes.KEY_EXPIRED)
        if known.actor is None:
            raise refused(codes.MEMBER_LEFT)
        return Caller(key_id, known.row.workspace_id, Role(known.row.role), known.actor)

    async def still_holds(self, caller: Caller) -> bool:
        """Whether the key of somebody let in before would let the same one in again."""
        known = await self._known(caller.key_id)
        if known is None or known.actor is None:
            return False
        expires_at = known.row.expires_at
        is_valid = expires_at is None or expires_at > self._clock()
        return is_valid and known.row.role == caller.role.value

    def forget(self, key_id: UUID) -> None:
        """Look again at the next request: the key was revoked here."""
        self._cache.pop(key_id, None)

    async def _known(self, key_id: UUID) -> _Known | None:
        known = self._cache.get(key_id)
        if known is not None and known.until_s > time.monotonic():
            return known
        async with self._pool.plain() as connection:
            row = await find_key(connection, key_id)
        if row is None:
            self.forget(key_id)
            return None
        actor = await run_in_threadpool(self._actor, key_id, row)
        if len(self._cache) >= KEY_CACHE_MAX:
            self._cache.clear()
        known = self._cache[key_id] = _Known(row, actor, time.monotonic() + KEY_CACHE_TTL_S)
        return known

    def _actor(self, key_id: UUID, row: KeyRow) -> Actor | None:
        if row.member_id is None:
            return Actor("api_key", str(key_id), row.name)
        with self._log.scoped(Scope(row.workspace_id)):
            try:
                member = self._log.load(Member, row.member_id)
            except NotFound:
                return None
        if member.is_deleted:
            return None
        return Actor("member", str(member.id), member.name)


def refused(code: ErrorCode) -> ApiError:
    """A 401 for credentials that were given and are not good (RFC 6750)."""
    challenge = 'Bearer realm="annals", error="invalid_token"'
    return ApiError(code, headers={"WWW-Authenticate": challenge})


BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    bearerFormat="annals_<key id>_<secret>",
    description="An API key as POST /api/keys showed it. Its role says what it may do.",
)


async def authenticate(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> Caller:
    """The caller of this request. Raises 401."""
    if given is None:
        if request.headers.get("Authorization"):
            raise refused(codes.MALFORMED_CREDENTIALS)
        raise ApiError(codes.NO_CREDENTIALS)
    authenticator: Authenticator = request.app.state.services.authenticator
    caller = await authenticator.caller(given.credentials)
    request.state.key_id = str(caller.key_id)
    return caller


def require_permission(permission: Permission) -> Callable[[Caller], Awaitable[Caller]]:
    """A dependency: the caller, who has this permission. Raises 401 and 403."""

    async def allowed(caller: Annotated[Caller, Depends(authenticate)]) -> Caller:
        caller.require(permission)
        return caller

    return allowed
