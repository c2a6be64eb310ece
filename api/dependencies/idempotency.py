"""The header Idempotency-Key: repeating a request returns the first response again.

A route that writes takes `executor: Executor`. If one decision is all that it executes, it awaits
`executor.commit(...)`, which shares transactions with other requests. Otherwise it returns
`executor.run(act, body)`: without a key `act` is simply called; with a key it runs inside a
transaction that also stores its response, and the commands that `act` executes become part of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials

from api.dependencies.request import command_scope, services_of
from api.dependencies.services import Services
from api.http.auth import BEARER, Caller, authenticate
from api.http.bodies import Body
from api.http.problems import EXPECTED_ERRORS
from api.http.responses import COMMAND
from commands.decisions import CommandOutcome, Decision
from commands.idempotency import (
    KEY_MAX_CHARS,
    Answer,
    IdempotencyKey,
    IdempotencyStore,
    KeyedRequest,
    request_digest,
)
from eventlog.scope import Scope
from eventlog.store.shared import CannotShare
from runtime import codes
from runtime.errors import ApiError
from runtime.patches import JSON_PATCH_TYPE

REPLAYED = "Idempotent-Replayed"
KEY_HEADER = "Idempotency-Key"
X_KEY_HEADER = "X-Idempotency-Key"
KEY_PATTERN = re.compile(rf"[\x21\x23-\x5b\x5d-\x7e]{{1,{KEY_MAX_CHARS}}}")
"""Visible ASCII without quotes and backslashes, which the quoted form would escape."""
DESCRIBED_PATTERN = rf"^({KEY_PATTERN.pattern}|\"{KEY_PATTERN.pattern}\")$"
"""The value of the header: a key, with or without quotes."""
HEADERS_NOT_STORED = frozenset({"content-length"})

SHARED_BODY_MAX_BYTES = 32 * 1024
SHARED_PATCH_MAX_BYTES = 1024
"""Larger bodies are parsed and decided upon in a thread, so that they do not hold up the event
loop. Each operation of a JSON Patch copies the whole document."""

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
        keyed = self._keyed(body)
        if keyed is None:
            return _add_command_header(act(scope), scope)
        window_s = self.services.settings.idempotency_window_s
        with self.services.log.transaction(scope) as connection:
            store = IdempotencyStore(connection, keyed, window_s=window_s)
            stored = store.find()
            if stored is not None:
                return _replay(stored)
            response = _add_command_header(act(scope), scope)
            store.remember(_as_answer(response))
        return response

    async def commit(
        self,
        decide: Callable[[Scope], Decision],
        respond: Callable[[CommandOutcome], Response],
        body: Body | None = None,
    ) -> Response:
        """Execute a decision and return its response, or the stored one as `run` does.

        It shares a transaction with other requests that arrive at the time, or runs in a worker
        thread if it cannot. `respond` may be called more than once. Raises what they raise, and as
        `run`.
        """

        def act(scope: Scope) -> Response:
            return respond(self.services.commands.run(scope, decide(scope)))

        if body is not None and _is_large(body):
            return await run_in_threadpool(self.run, act, body)
        scope = command_scope(self.request, self.caller)
        keyed = self._keyed(body)
        try:
            decision = decide(scope)
        except EXPECTED_ERRORS as error:
            if keyed is None:
                raise
            decision = Decision.refused(error)  # a stored response or another request goes first

        def answer(outcome: CommandOutcome) -> Answer:
            return _as_answer(_add_command_header(respond(outcome), scope))

        committer = self.services.committer
        try:
            done = await committer.run(scope, decision, keyed=keyed, answer=answer)
        except CannotShare:
            return await run_in_threadpool(self.run, act, body)
        if isinstance(done, Answer):
            return _replay(done)
        return _add_command_header(respond(done), scope)

    def _keyed(self, body: Body | None) -> KeyedRequest | None:
        """The request with its key, None if it has none."""
        if self.key is None:
            return None
        media_type, content = (body.media_type, body.content) if body else ("", b"")
        method, path = self.request.method, self.request.url.path
        return KeyedRequest(
            IdempotencyKey(self.caller.workspace_id, self.caller.key_id, self.key),
            request_digest(method, path, media_type, content),
            self.token,
        )


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


def _is_large(body: Body) -> bool:
    is_patch = body.media_type == JSON_PATCH_TYPE
    return len(body.content) > (SHARED_PATCH_MAX_BYTES if is_patch else SHARED_BODY_MAX_BYTES)


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
