"""Authentication by API key, and the check of permissions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from api.http.limits.keys import FailureQuota, KeyQuotas
from commands.keys import matches, parse_token
from commands.permissions import PERMISSIONS, Permission
from domain.api_key import OPERATORS, Role
from domain.member import Member
from domain.shared.refusals import NotFound
from eventlog.scope import Actor, Credential, Scope
from eventlog.store.log import EventLog
from readmodels.keys import KeyRow, find_key
from readmodels.pool import ReadPool
from runtime import codes
from runtime.codes.code import ErrorCode
from runtime.errors import ApiError

KEY_CACHE_TTL_S = 1.0
"""Seconds for which a key is served from the cache. A revoked key works no longer than this."""
KEY_CACHE_MAX = 10_000
"""Maximum number of keys in the cache."""
UNKNOWN_KEY_TTL_S = 1.0
"""Seconds for which an id without a key is refused without asking the database."""
UNKNOWN_KEYS_MAX = 10_000
"""Maximum number of ids that are remembered as unknown."""
KEY_LOOKUPS_MAX = 4
"""Maximum number of simultaneous look-ups of keys that are not in the cache. More of them wait, so
that invented keys cannot take all connections for reading."""
TOKEN_MAX_CHARS = 256


@dataclass(frozen=True)
class Caller:
    """The sender of a request: the key, its workspace and role, and the actor of its events."""

    key_id: UUID
    workspace_id: UUID
    role: Role
    actor: Actor
    name: str
    """The key's name."""
    expires_at: datetime | None
    credential: Credential = field(repr=False)

    @property
    def is_operator(self) -> bool:
        """Whether this is an operator, who belongs to no workspace."""
        return self.role is Role.OPERATOR

    def require(self, permission: Permission) -> None:
        """Raise 403 (E1008, E1021 or E1022) if the role lacks the permission."""
        if permission in PERMISSIONS[self.role]:
            return
        facts: dict[str, Any] = {"permission": permission.value, "role": self.role.value}
        if self.is_operator:
            raise ApiError(codes.OPERATOR_HAS_NO_WORKSPACE, **facts)
        if permission is Permission.OPERATE:
            raise ApiError(codes.OPERATOR_REQUIRED, **facts)
        raise ApiError(codes.FORBIDDEN, **facts)


@dataclass(frozen=True)
class _CachedKey:
    row: KeyRow
    actor: Actor | None
    """None if the member whom the key stands for has left."""
    expires_at_s: float
    """When the cache entry expires, by the monotonic clock."""


class Authenticator:
    """Finds the caller for a token. Used in the event loop only."""

    def __init__(
        self,
        pool: ReadPool,
        log: EventLog,
        clock: Callable[[], datetime],
        quotas: KeyQuotas,
        failures: FailureQuota,
    ) -> None:
        self._pool = pool
        self._log = log
        self._clock = clock
        self._quotas = quotas
        self._failures = failures
        self._cache: dict[UUID, _CachedKey] = {}
        self._unknown: dict[UUID, float] = {}
        """Until when an id is refused without asking the database, by the monotonic clock."""
        self._lookups = asyncio.Semaphore(KEY_LOOKUPS_MAX)

    async def authenticate(self, connection: HTTPConnection, token: str) -> Caller:
        """Return the caller of a request, and count the request.

        Raises 401 (E1004 to E1007) and 429 (E1030, E4020).
        """
        caller = await self.identify(connection, token)
        self._quotas.count(connection, caller.key_id, caller.workspace_id, caller.role)
        return caller

    async def identify(self, connection: HTTPConnection, token: str) -> Caller:
        """Return the caller that the token belongs to. Raises 401 (E1004 to E1007), 429 (E1030).

        If too many credentials from the client's address were invalid, the database is asked for
        keys that it has authenticated before, and for no others.
        """
        client = connection.scope.get("client")
        address = client[0] if client else ""
        parsed = parse_token(token) if len(token) <= TOKEN_MAX_CHARS else None
        if (wait_s := self._failures.wait_s(address)) and not self._has_authenticated(parsed):
            raise ApiError(codes.TOO_MANY_AUTH_FAILURES, headers={"Retry-After": str(ceil(wait_s))})
        try:
            return await self._caller(parsed)
        except ApiError as refusal:
            if refusal.code.status == 401:
                self._failures.count(address)
            raise

    def _has_authenticated(self, parsed: tuple[UUID, str] | None) -> bool:
        """Whether these credentials belong to a key that was known here lately."""
        key = self._cache.get(parsed[0]) if parsed else None
        return key is not None and parsed is not None and matches(parsed[1], key.row.secret_sha256)

    async def _caller(self, parsed: tuple[UUID, str] | None) -> Caller:
        if parsed is None:
            raise invalid_credentials(codes.MALFORMED_CREDENTIALS)
        key_id, secret = parsed
        key = await self._load(key_id)
        if key is None or not matches(secret, key.row.secret_sha256):
            raise invalid_credentials(codes.UNKNOWN_KEY)
        if key.row.expires_at is not None and key.row.expires_at <= self._clock():
            raise invalid_credentials(codes.KEY_EXPIRED)
        if key.actor is None:
            raise invalid_credentials(codes.MEMBER_LEFT)
        return Caller(
            key_id,
            key.row.workspace_id,
            Role(key.row.role),
            key.actor,
            key.row.name,
            key.row.expires_at,
            Credential(key_id, secret),
        )

    async def is_still_valid(self, caller: Caller) -> bool:
        """Whether the key of this caller still authenticates with the same role."""
        key = await self._load(caller.key_id)
        if key is None or key.actor is None:
            return False
        expires_at = key.row.expires_at
        is_valid = expires_at is None or expires_at > self._clock()
        return is_valid and key.row.role == caller.role.value

    def forget(self, key_id: UUID) -> None:
        """Ask the database for this key next time, for example after issuing or revoking it."""
        self._cache.pop(key_id, None)
        self._unknown.pop(key_id, None)

    async def _load(self, key_id: UUID) -> _CachedKey | None:
        """Return the key, from the cache if possible; None if it is unknown or revoked."""
        if self._is_cached(key_id):
            return self._cache.get(key_id)
        if key_id in self._cache:  # a known key does not wait behind unknown ones
            return await self._look_up(key_id)
        async with self._lookups:
            if self._is_cached(key_id):  # another request has asked meanwhile
                return self._cache.get(key_id)
            return await self._look_up(key_id)

    def _is_cached(self, key_id: UUID) -> bool:
        """Whether the cache knows the key, or knows that there is none."""
        key = self._cache.get(key_id)
        expires_at_s = self._unknown.get(key_id, 0.0) if key is None else key.expires_at_s
        return expires_at_s > time.monotonic()

    async def _look_up(self, key_id: UUID) -> _CachedKey | None:
        async with self._pool.plain() as connection:
            row = await find_key(connection, key_id)
        # An operator key counts in its own workspace only, and no other key counts there.
        if row is None or (row.role == Role.OPERATOR) != (row.workspace_id == OPERATORS):
            self._cache.pop(key_id, None)
            if len(self._unknown) >= UNKNOWN_KEYS_MAX:
                self._unknown.clear()
            self._unknown[key_id] = time.monotonic() + UNKNOWN_KEY_TTL_S
            return None
        actor = await run_in_threadpool(self._load_actor, key_id, row)
        if len(self._cache) >= KEY_CACHE_MAX:
            self._cache.clear()
        key = self._cache[key_id] = _CachedKey(row, actor, time.monotonic() + KEY_CACHE_TTL_S)
        return key

    def _load_actor(self, key_id: UUID, row: KeyRow) -> Actor | None:
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


def invalid_credentials(code: ErrorCode) -> ApiError:
    """Return a 401 for credentials that were sent but are not valid (RFC 6750, section 3.1)."""
    challenge = 'Bearer realm="annals", error="invalid_token"'
    return ApiError(code, headers={"WWW-Authenticate": challenge})


BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    bearerFormat="annals_<key id>_<secret>",
    description="An API key as POST /api/keys returned it. Its role determines its permissions.",
)


async def authenticate(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> Caller:
    """Dependency: return the caller of this request. Raises 401 and 429."""
    if given is None:
        if request.headers.get("Authorization"):
            raise invalid_credentials(codes.MALFORMED_CREDENTIALS)
        raise ApiError(codes.NO_CREDENTIALS)
    authenticator: Authenticator = request.app.state.services.authenticator
    caller = await authenticator.authenticate(request, given.credentials)
    request.scope["state"]["key_id"] = caller.key_id
    return caller


def require_permission(permission: Permission) -> Callable[[Caller], Awaitable[Caller]]:
    """Return a dependency: the caller, who has this permission. Raises 401 and 403."""

    async def permitted(caller: Annotated[Caller, Depends(authenticate)]) -> Caller:
        caller.require(permission)
        return caller

    return permitted
