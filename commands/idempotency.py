"""Idempotency: the first answer to a request is remembered under the key that the client gave.

All of this happens within the transaction that appends the events (`EventLog.transaction`): answer
and events are there together or not at all. See docs/adr/0008-idempotency.md.
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
# now() and not clock_timestamp(): partitions older than the window are not looked at.
RECALL = """
SELECT request, answer FROM remembered_answers
 WHERE workspace_id = %(workspace)s AND caller = %(caller)s AND key = %(key)s
   AND answered_at > now() - make_interval(secs => %(window_s)s)
 ORDER BY answered_at DESC LIMIT 1
"""
REMEMBER = """
SELECT remember_answer(%(workspace)s, %(caller)s, %(key)s, %(request)s, %(answer)s, %(window_s)s)
"""
MAINTAIN_PARTITIONS = "SELECT made, dropped FROM keep_remembered_answers(%s)"
"""Makes partitions ahead and drops those that are older than the window, in seconds."""


@dataclass
class KeyInFlight(Refusal):
    """A request with this idempotency key is still being worked on."""

    key: str


@dataclass
class KeyReused(Refusal):
    """This idempotency key was used for another request."""

    key: str


@dataclass(frozen=True)
class Answer:
    """An answer as it went to the client: what is repeated where the client asks again."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class IdempotencyKey:
    """An idempotency key, and whose it is. The same one of another caller is another key."""

    workspace_id: UUID
    caller: UUID
    text: str

    def __str__(self) -> str:
        return f"{self.workspace_id} {self.caller} {self.text}"


class IdempotencyStore:
    """The answer under one key. Lives as long as the transaction that it is made for.

    `token` is what the caller came in by: stored answers, which may hold what nobody else should
    see (a new API key), open with it and with nothing else.
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
        """The answer that was given, None where this is the first time; then it stays ours.

        Others who come with the key are refused until the transaction ends. Raises `KeyInFlight`,
        and `KeyReused` where the key was used for another request.
        """
        (ours,) = self._connection.execute(TRY_KEY, (str(self._key),)).fetchone() or (False,)
        if not ours:
            raise KeyInFlight(self._key.text)
        # A statement of its own: it sees what whoever had the lock before us has committed.
        row = self._connection.execute(RECALL, self._parameters()).fetchone()
        if row is None:
            return None
        request, sealed = row
        if not hmac.compare_digest(request, self._request):
            raise KeyReused(self._key.text)
        return self._open(sealed)

    def remember(self, answer: Answer) -> None:
        """Keep the answer for the window."""
        parameters = {**self._parameters(), "request": self._request, "answer": self._seal(answer)}
        self._connection.execute(REMEMBER, parameters)

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
        nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        plain = self._cipher.decrypt(nonce, rest, str(self._key).encode())
        head, _, body = plain.partition(b"\n")
        status, headers = orjson.loads(head)
        return Answer(status, tuple((name, value) for name, value in headers), body)


def request_digest(method: str, path: str, media_type: str, body: bytes) -> bytes:
    """SHA-256 of what a request asks for; each part is preceded by its length."""
    digest = hashlib.sha256()
    for part in (method.encode(), path.encode(), media_type.encode(), body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
