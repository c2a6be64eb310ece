"""The header Idempotency-Key: repeating a request returns the first response again.

A route that writes takes `executor: Executor` and returns `executor.run(act, body)`. Without a key
`act` is simply called. With a key it runs inside a transaction that also stores its response; the
commands that `act` executes become part of that transaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from fastapi.security import HTTPAuthorizationCredentials

from api.dependencies.request import command_scope, services_of
from api.dependencies.services import Services
from api.http.auth import BEARER, Caller, authenticate
from api.http.bodies import Body
from api.http.responses import COMMAND
from commands.idempotency import (
    KEY_MAX_CHARS,
    Answer,
    IdempotencyKey,
    IdempotencyStore,
    request_digest,
)
from eventlog.scope import Scope
from runtime import codes
from runtime.errors import ApiError

REPLAYED = "Idempotent-Replayed"
KEY_HEADER = "Idempotency-Key"
X_KEY_HEADER = "X-Idempotency-Key"
KEY_PATTERN = re.compile(rf"[\x21\x23-\x5b\x5d-\x7e]{{1,{KEY_MAX_CHARS}}}")
"""Visible ASCII without quotes and backslashes, which the quoted form would escape."""
DESCRIBED_PATTERN = rf"^({KEY_PATTERN.pattern}|\"{KEY_PATTERN.pattern}\")$"
"""The value of the header: a key, with or without quotes."""
HEADERS_NOT_STORED = frozenset({"content-length"})

Act = Callable[[Scope], Response]


@dataclass(frozen=True)
class IdempotentExecutor:
    """Executes the write of a request, once for each idempotency key."""

    request: Request
    services: Services
    caller: Caller
    token: str
    key: str | None

    def run(self, act: Act, body: Body | None = None) -> Response:
        """Return the response of `act`, or the stored response of the first request with the key.

        Call it in a worker thread. If `act` raises, nothing is stored and nothing is recorded.
        Raises 409 (E5013) while the first request is still in progress, and 422 (E2036) if the key
        was used for a different request.
        """
        scope = command_scope(self.request, self.caller)
        if self.key is None:
            return _add_command_header(act(scope), scope)
        with self.services.log.transaction(scope) as connection:
            store = IdempotencyStore(
                connection,
                IdempotencyKey(self.caller.workspace_id, self.caller.key_id, self.key),
                self._digest(body),
                self.token,
                window_s=self.services.settings.idempotency_window_s,
            )
            stored = store.find()
            if stored is not None:
                return _replay(stored)
            response = _add_command_header(act(scope), scope)
            store.remember(_as_answer(response))
        return response

    def _digest(self, body: Body | None) -> bytes:
        media_type, content = (body.media_type, body.content) if body else ("", b"")
        return request_digest(self.request.method, self.request.url.path, media_type, content)


async def idempotent_executor(
    request: Request,
    services: Annotated[Services, Depends(services_of)],
    caller: Annotated[Caller, Depends(authenticate)],
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(BEARER)],
    _key: Annotated[
        str | None,
        Header(
            alias=KEY_HEADER,
            description="A unique name for this request, such as a UUID. If the request is repeated"
            " with the same key, it is not executed again: you get the first response again.",
            json_schema_extra={"pattern": DESCRIBED_PATTERN},
        ),
    ] = None,
    _x_key: Annotated[
        str | None,
        Header(
            alias=X_KEY_HEADER,
            description=f"Same as {KEY_HEADER}.",
            json_schema_extra={"pattern": DESCRIBED_PATTERN},
        ),
    ] = None,
) -> IdempotentExecutor:
    """Dependency: return the executor of this request's write. Raises 400 (E2035)."""
    given = [*request.headers.getlist(KEY_HEADER), *request.headers.getlist(X_KEY_HEADER)]
    return IdempotentExecutor(request, services, caller, credentials.credentials, parse_key(given))


def parse_key(values: Iterable[str]) -> str | None:
    """Return the key that all of these header values name, or None. Raises 400 (E2035).

    Surrounding quotes are removed: draft-ietf-httpapi-idempotency-key-header defines the key as a
    string of RFC 8941, but most clients send it unquoted.
    """
    keys = {_unquote(each.strip()) for each in values}
    if not keys:
        return None
    if len(keys) > 1:
        raise ApiError(codes.INVALID_IDEMPOTENCY_KEY, "Two different keys were given.")
    (key,) = keys
    if not KEY_PATTERN.fullmatch(key):
        raise ApiError(codes.INVALID_IDEMPOTENCY_KEY, maxChars=KEY_MAX_CHARS)
    return key


def _unquote(value: str) -> str:
    is_quoted = len(value) >= 2 and value[0] == value[-1] == '"'
    return value[1:-1] if is_quoted else value


def _add_command_header(response: Response, scope: Scope) -> Response:
    """Add the id of the command, by which the write can be undone."""
    response.headers.setdefault(COMMAND, scope.command_id)
    return response


def _as_answer(response: Response) -> Answer:
    headers = (each for each in response.headers.items() if each[0] not in HEADERS_NOT_STORED)
    return Answer(response.status_code, tuple(headers), bytes(response.body))


def _replay(stored: Answer) -> Response:
    headers = {**dict(stored.headers), REPLAYED: "true"}
    return Response(stored.body, stored.status, headers=headers)
