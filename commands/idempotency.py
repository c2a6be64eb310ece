"""Idempotency: the answer to a request is stored under the client's key and returned on a retry.

The answer is stored in the transaction that appends the events (`EventLog.transaction`), so both
are committed or neither is. See docs/adr/0008-idempotency.md.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domain.shared.refusals import Refusal
from eventlog.connections import AsyncConnection, Connection
from eventlog.locks import IDEMPOTENCY_LOCK, one_key

KEY_MAX_CHARS = 200
NONCE_BYTES = 12
SEALED_FOR = b"annals: remembered answer"

TRY_KEY = f"SELECT pg_try_advisory_xact_lock({one_key(IDEMPOTENCY_LOCK)})"
# The answer under a key. With now(), unlike clock_timestamp(), the planner skips old partitions.
SELECT_ANSWER = """
SELECT request, answer FROM remembered_answers
 WHERE workspace_id = %(workspace)s AND caller = %(caller)s AND key = %(key)s
   AND answered_at > now() - make_interval(secs => %(window_s)s)
 ORDER BY answered_at DESC LIMIT 1
"""
# Store an answer, after creating the partition for it if necessary.
INSERT_ANSWER = """
SELECT remember_answer(%(workspace)s, %(caller)s, %(key)s, %(request)s, %(answer)s, %(window_s)s)
"""
TRY_KEYS = f"""
SELECT pg_try_advisory_xact_lock({one_key(IDEMPOTENCY_LOCK, "name")})
  FROM unnest(%s::text[]) WITH ORDINALITY AS wanted(name, number) ORDER BY number
"""
FIND_ANSWERS = "SELECT request, answer FROM find_answers(%s::uuid[], %s::uuid[], %s::text[], %s)"
REMEMBER_ANSWERS = """
SELECT remember_answers(%s::uuid[], %s::uuid[], %s::text[], %s::bytea[], %s::bytea[], %s)
"""
# Create partitions ahead, and drop those older than the window, in seconds.
MAINTAIN_PARTITIONS = "SELECT made, dropped FROM keep_remembered_answers(%s)"


@dataclass
class KeyInFlight(Refusal):
    """A request with this idempotency key is still in progress."""

    key: str


@dataclass
class KeyReused(Refusal):
    """This idempotency key was used for a different request."""

    key: str


@dataclass(frozen=True)
class Answer:
    """An answer as it was sent to the client."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class IdempotencyKey:
    """An idempotency key of one caller. Equal keys of different callers are different."""

    workspace_id: UUID
    caller: UUID
    text: str

    def __str__(self) -> str:
        return f"{self.workspace_id} {self.caller} {self.text}"


@dataclass(frozen=True)
class KeyedRequest:
    """A request with an idempotency key.

    `digest` is that of the request. `token` is the caller's credential: answers, which may contain
    secrets such as a new API key, are encrypted with a key derived from it.
    """

    key: IdempotencyKey
    digest: bytes
    token: str = field(repr=False)

    def opened(self, request: bytes | None, sealed: bytes) -> Answer | None:
        """Return the answer that was stored for the key, None if there is none.

        Raises `KeyReused` if it answered another request.
        """
        if request is None:
            return None
        if not hmac.compare_digest(request, self.digest):
            raise KeyReused(self.key.text)
        nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        plain = self._cipher().decrypt(nonce, ciphertext, str(self.key).encode())
        head, _, body = plain.partition(b"\n")
        status, headers = orjson.loads(head)
        return Answer(status, tuple((name, value) for name, value in headers), body)

    def sealed(self, answer: Answer) -> bytes:
        """Return the answer as it is stored."""
        head = orjson.dumps([answer.status, answer.headers])
        nonce = os.urandom(NONCE_BYTES)
        plain = head + b"\n" + answer.body
        return nonce + self._cipher().encrypt(nonce, plain, str(self.key).encode())

    def _cipher(self) -> AESGCM:
        return AESGCM(hmac.digest(self.token.encode(), SEALED_FOR, "sha256"))


class IdempotencyStore:
    """The stored answer of one key, within one transaction.

    Unlike those for several requests, its statements enter no workspace: an answer of another one
    than the transaction's is refused.
    """

    def __init__(self, connection: Connection, keyed: KeyedRequest, *, window_s: int) -> None:
        self._connection = connection
        self._keyed = keyed
        self._window_s = window_s

    def find(self) -> Answer | None:
        """Lock the key and return the stored answer, None if there is none.

        The lock lasts until the end of the transaction; concurrent requests with the key are
        refused. Raises `KeyInFlight`, and `KeyReused` if the key was used for another request.
        """
        key = str(self._keyed.key)
        (is_ours,) = self._connection.execute(TRY_KEY, (key,)).fetchone() or (False,)
        if not is_ours:
            raise KeyInFlight(self._keyed.key.text)
        # A separate statement, so that it sees what the last holder of the lock has committed.
        row = self._connection.execute(SELECT_ANSWER, self._parameters()).fetchone()
        return self._keyed.opened(*row) if row else None

    def remember(self, answer: Answer) -> None:
        """Store the answer for the window."""
        sealed = self._keyed.sealed(answer)
        parameters = {**self._parameters(), "request": self._keyed.digest, "answer": sealed}
        self._connection.execute(INSERT_ANSWER, parameters)

    def _parameters(self) -> dict[str, object]:
        key = self._keyed.key
        return {
            "workspace": key.workspace_id,
            "caller": key.caller,
            "key": key.text,
            "window_s": self._window_s,
        }


async def find_answers(
    connection: AsyncConnection, requests: Sequence[KeyedRequest], *, window_s: int
) -> list[Answer | Refusal | None]:
    """As `IdempotencyStore.find`, for several requests: the answer, refusal or None of each.

    Of several requests with the same key, the first gets it.
    """
    names = [str(each.key) for each in requests]
    cursor = await connection.execute(TRY_KEYS, (names,), prepare=True)
    is_ours = [row[0] for row in await cursor.fetchall()]
    cursor = await connection.execute(FIND_ANSWERS, (*_columns(requests), window_s), prepare=True)
    found: list[Answer | Refusal | None] = []
    taken: set[str] = set()
    for name, keyed, is_held, row in zip(
        names, requests, is_ours, await cursor.fetchall(), strict=True
    ):
        if not is_held or name in taken:
            found.append(KeyInFlight(keyed.key.text))
            continue
        taken.add(name)
        try:
            found.append(keyed.opened(*row))
        except KeyReused as refusal:
            found.append(refusal)
    return found


async def remember_answers(
    connection: AsyncConnection,
    answers: Sequence[tuple[KeyedRequest, Answer]],
    *,
    window_s: int,
) -> None:
    """Store the answers of several requests."""
    requests = [keyed for keyed, _ in answers]
    digests = [keyed.digest for keyed in requests]
    sealed = [keyed.sealed(answer) for keyed, answer in answers]
    parameters = (*_columns(requests), digests, sealed, window_s)
    await connection.execute(REMEMBER_ANSWERS, parameters, prepare=True)


def _columns(requests: Sequence[KeyedRequest]) -> tuple[list[UUID], list[UUID], list[str]]:
    keys = [each.key for each in requests]
    return (
        [each.workspace_id for each in keys],
        [each.caller for each in keys],
        [each.text for each in keys],
    )


def request_digest(method: str, path: str, media_type: str, body: bytes) -> bytes:
    """SHA-256 of a request; each part is preceded by its length."""
    digest = hashlib.sha256()
    for part in (method.encode(), path.encode(), media_type.encode(), body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
