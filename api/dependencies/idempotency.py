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
COMMAND = "Annals-Command"
KEY_HEADER = "Idempotency-Key"
X_KEY_HEADER = "X-Idempotency-Key"
KEY_PATTERN = re.compile(rf"[\x21\x23-\x5b\x5d-\x7e]{{1,{KEY_MAX_CHARS}}}")
"""Visible ASCII without quotes and backslashes, which are those of the quoted form."""
MADE_ANEW = frozenset({"content-length"})
"""Headers of an answer that are not remembered."""

Perform = Callable[[Scope], Response]


@dataclass(frozen=True)
class IdempotentExecutor:
    """Does what a request asks for, once for each idempotency key."""

    request: Request
    services: Services
    caller: Caller
    token: str
    key: str | None

    def run(self, act: Perform, given: Body | None = None) -> Response:
        """What `act` answers, or what it answered the first time. To be called in a worker thread.

        What `act` raises is not remembered, and nothing of what it did is recorded. Raises 409
        (E5013) where the first request is still being worked on, 422 (E2036) where the key was used
        for another one.
        """
        scope = command_scope(self.request, self.caller)
        if self.key is None:
            return _named(act(scope), scope)
        with self.services.log.transaction(scope) as connection:
            memory = IdempotencyStore(
                connection,
                IdempotencyKey(self.caller.workspace_id, self.caller.key_id, self.key),
                self._digest(given),
                self.token,
                window_s=self.services.settings.idempotency_window_s,
            )
            known = memory.find()
            if known is not None:
                return _response(known)
            response = _named(act(scope), scope)
            memory.remember(_answer(response))
        return response

    def _digest(self, given: Body | None) -> bytes:
        media_type, content = (given.media_type, given.content) if given else ("", b"")
        return request_digest(self.request.method, self.request.url.path, media_type, content)


async def once(
    request: Request,
    services: Annotated[Services, Depends(services_of)],
    caller: Annotated[Caller, Depends(authenticate)],
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(BEARER)],
    _key: Annotated[
        str | None,
        Header(
            alias=KEY_HEADER,
            description="A name that you make up for this request (a UUID). Sent again with the"
            " same key, it is not done again: you get the first answer again.",
        ),
    ] = None,
    _x_key: Annotated[
        str | None, Header(alias=X_KEY_HEADER, description=f"The same as {KEY_HEADER}.")
    ] = None,
) -> IdempotentExecutor:
    """A dependency: by which a mutation is done once. Raises 400 (E2035)."""
    given = [*request.headers.getlist(KEY_HEADER), *request.headers.getlist(X_KEY_HEADER)]
    return IdempotentExecutor(request, services, caller, credentials.credentials, parse_key(given))


Executor = Annotated[IdempotentExecutor, Depends(once)]


def parse_key(given: Iterable[str]) -> str | None:
    """The key that all of these headers name, None where there are none. Raises 400 (E2035).

    Quotes around it are taken off: draft-ietf-httpapi-idempotency-key-header has the key as a
    string of RFC 8941, most clients send it bare.
    """
    keys = {_bare(each.strip()) for each in given}
    if not keys:
        return None
    if len(keys) > 1:
        raise ApiError(codes.INVALID_IDEMPOTENCY_KEY, "Two different keys were given.")
    (key,) = keys
    if not KEY_PATTERN.fullmatch(key):
        raise ApiError(codes.INVALID_IDEMPOTENCY_KEY, maxChars=KEY_MAX_CHARS)
    return key


def _bare(value: str) -> str:
    is_quoted = len(value) >= 2 and value[0] == value[-1] == '"'
    return value[1:-1] if is_quoted else value


def _named(response: Response, scope: Scope) -> Response:
    """The answer, which names the command that caused it: that is what can be undone."""
    response.headers.setdefault(COMMAND, scope.command_id)
    return response


def _answer(response: Response) -> Answer:
    headers = (each for each in response.headers.items() if each[0] not in MADE_ANEW)
    return Answer(response.status_code, tuple(headers), bytes(response.body))


def _response(answer: Answer) -> Response:
    headers = {**dict(answer.headers), REPLAYED: "true"}
    return Response(answer.body, answer.status, headers=headers)
