"""Idempotency: the answer to a request is stored under the client's key and returned on a retry.

The answer is stored in the transaction that appends the events (`EventLog.transaction`), so both
are committed or neither is. See docs/adr/0008-idempotency.md.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domain.shared.refusals import Refusal
from eventlog.connections import Connection
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


class IdempotencyStore:
    """The stored answer of one key, within one transaction.

    `token` is the caller's credential. Answers, which may contain secrets such as a new API key,
    are encrypted with a key derived from it.
    """

    def __init__(
        self,
        connection: Connection,
        key: IdempotencyKey,
        request: bytes,
        token: str,
        *,
        window_s: int,
    ) -> None:
        self._connection = connection
        self._key = key
        self._request = request
        sealing_key = hmac.digest(token.encode(), SEALED_FOR, "sha256")
        self._cipher = AESGCM(sealing_key)
        self._window_s = window_s

    def find(self) -> Answer | None:
        """Lock the key and return the stored answer, None if there is none.

        The lock lasts until the end of the transaction; concurrent requests with the key are
        refused. Raises `KeyInFlight`, and `KeyReused` if the key was used for another request.
        """
        (is_ours,) = self._connection.execute(TRY_KEY, (str(self._key),)).fetchone() or (False,)
        if not is_ours:
            raise KeyInFlight(self._key.text)
        # A separate statement, so that it sees what the last holder of the lock has committed.
        row = self._connection.execute(SELECT_ANSWER, self._parameters()).fetchone()
        if row is None:
            return None
        request, sealed = row
        if not hmac.compare_digest(request, self._request):
            raise KeyReused(self._key.text)
        return self._open(sealed)

    def remember(self, answer: Answer) -> None:
        """Store the answer for the window."""
        parameters = {**self._parameters(), "request": self._request, "answer": self._seal(answer)}
        self._connection.execute(INSERT_ANSWER, parameters)

    def _parameters(self) -> dict[str, object]:
        return {
            "workspace": self._key.workspace_id,
            "caller": self._key.caller,
            "key": self._key.text,
            "window_s": self._window_s,
        }

    def _seal(self, answer: Answer) -> bytes:
        head = orjson.dumps([answer.status, answer.headers])
        nonce = os.urandom(NONCE_BYTES)
        plain = head + b"\n" + answer.body
        return nonce + self._cipher.encrypt(nonce, plain, str(self._key).encode())

    def _open(self, sealed: bytes) -> Answer:
        nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        plain = self._cipher.decrypt(nonce, ciphertext, str(self._key).encode())
        head, _, body = plain.partition(b"\n")
        status, headers = orjson.loads(head)
        return Answer(status, tuple((name, value) for name, value in headers), body)


def request_digest(method: str, path: str, media_type: str, body: bytes) -> bytes:
    """SHA-256 of a request; each part is preceded by its length."""
    digest = hashlib.sha256()
    for part in (method.encode(), path.encode(), media_type.encode(), body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
