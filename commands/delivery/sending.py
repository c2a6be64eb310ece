"""Text messages are handed to the gateway: claimed, called for, written down.

Nothing is held while the gateway is called. A claim is a row that nobody touches until its lease is
over; who dies with it has counted as an attempt, and the message is tried again under the same key.
See docs/adr/0015-process-managers-and-sms.md for what each death leads to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg_pool import ConnectionPool
from tenacity import RetryCallState, Retrying, wait_exponential, wait_random

from commands.delivery.breakers import lock_breaker, save_breaker
from commands.delivery.gateway import GatewayRefused, GatewayUnavailable, OutgoingSms, SmsGateway
from commands.delivery.outbox import END, scope_of
from commands.sms import SmsCommands, require_reachable
from domain.lead import Lead
from domain.shared.breaker import Breaker, Limits
from domain.shared.refusals import IsDeleted, Refusal
from domain.sms import Sms, SmsStatus
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog

log = logging.getLogger(__name__)

BREAKER = "sms"
COMMAND = "sendSms"
ERROR_MAX_CHARS = 500
RETRY_AFTER_MAX_S = 300.0
"""However long a gateway wants to be left alone."""

DUE = """
SELECT id, workspace_id, data->>'smsId', metadata, attempts,
       extract(epoch FROM clock_timestamp() - created_at)
  FROM process_commands
 WHERE state = 'waiting' AND next_attempt_at <= clock_timestamp() AND name = %s
 ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
CLAIM = """
UPDATE process_commands
   SET attempts = %s, next_attempt_at = clock_timestamp() + make_interval(secs => %s)
 WHERE id = %s AND workspace_id = %s
"""
# Whoever outlived its lease and finds another attempt begun leaves the row to that one.
LATER = """
UPDATE process_commands
   SET error = %s, next_attempt_at = clock_timestamp() + make_interval(secs => %s)
 WHERE id = %s AND workspace_id = %s AND state = 'waiting' AND attempts = %s
"""


LIMITS = Limits()


@dataclass(frozen=True)
class RetryPolicy:
    """How often and for how long a message is tried."""

    attempts_max: int = 5
    backoff_first_s: float = 1.0
    """Pause after the first attempt; twice that after the second, and so on,"""
    backoff_max_s: float = 4.0
    """no more than this,"""
    jitter_s: float = 0.5
    """and up to so much longer, so that not all come back at once."""
    lease_s: float = 15.0
    """A claim is void after so long: longer than the gateway is waited for."""
    expire_s: float = 86_400.0
    """A message that could not be sent for so long is not sent any more: it says nothing today."""
    breaker: Limits = LIMITS

    def pause_s(self, attempts: int) -> float:
        """How long to wait after so many attempts."""
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = attempts
        backoff = wait_exponential(multiplier=self.backoff_first_s, max=self.backoff_max_s)
        return (backoff + wait_random(0, self.jitter_s))(state)


@dataclass(frozen=True)
class ClaimedMessage:
    """A message that is ours to send until the lease is over."""

    command: UUID
    sms_id: UUID
    scope: Scope
    attempt: int
    epoch: int
    """Of the breaker that let it through."""
    given_up: str = ""
    """Why it is not to be tried again; empty where it is."""


class SmsDelivery:
    """Sends messages, one for each call of `send_next`. Thread-safe; several processes share."""

    def __init__(
        self,
        log: EventLog,
        sms: SmsCommands,
        pool: ConnectionPool[Connection],
        gateway: SmsGateway,
        retry_policy: RetryPolicy = RetryPolicy(),
    ) -> None:
        self._log = log
        self._sms = sms
        self._pool = pool
        self._gateway = gateway
        self._retry_policy = retry_policy

    def send_next(self) -> bool:
        """Try the message that waits longest; False where none is due, or the breaker is open."""
        claim = self.claim()
        if claim is None:
            return False
        if claim.given_up:
            self.end(claim, "failed", SmsStatus.FAILED, error=claim.given_up)
            return True
        outgoing = self._outgoing(claim)
        if outgoing is not None:
            self._call(claim, outgoing)
        return True

    def claim(self) -> ClaimedMessage | None:
        """Take the next message, and leave to call. Both or none: a probe has something to send."""
        with self._pool.connection() as connection, connection.transaction():
            row = connection.execute(DUE, (COMMAND,)).fetchone()
            if row is None:
                return None
            breaker, now = lock_breaker(connection, BREAKER)
            command, workspace, sms_id, metadata, attempts, age_s = row
            given_up = self._given_up(attempts, float(age_s))
            admitted = breaker if given_up else breaker.admit(now, self._retry_policy.breaker)
            if admitted is None:
                return None
            save_breaker(connection, BREAKER, breaker, admitted)
            attempt = attempts if given_up else attempts + 1
            connection.execute(CLAIM, (attempt, self._retry_policy.lease_s, command, workspace))
        scope = scope_of(command, workspace, COMMAND, metadata)
        return ClaimedMessage(command, UUID(sms_id), scope, attempt, admitted.epoch, given_up)

    def end(
        self, claim: ClaimedMessage, state: str, status: SmsStatus, **facts: str | None
    ) -> None:
        """Write down what became of the message, and that no more is to be done for it."""
        with self._log.transaction(claim.scope) as connection:
            with suppress(IsDeleted):
                self._sms.record_status(claim.scope, claim.sms_id, status, **facts)
            error = facts.get("error") or ""
            workspace = claim.scope.workspace_id
            connection.execute(END, (state, error, claim.command, workspace))

    def _given_up(self, attempts: int, age_s: float) -> str:
        if attempts >= self._retry_policy.attempts_max:
            return f"given up after {attempts} attempts"
        if age_s > self._retry_policy.expire_s:
            return f"not sent within {self._retry_policy.expire_s:.0f} s"
        return ""

    def _outgoing(self, claim: ClaimedMessage) -> OutgoingSms | None:
        """What is to be sent, as things are now; None where nothing is, any more."""
        with self._log.scoped(claim.scope):
            sms = self._log.load(Sms, claim.sms_id)
            lead = self._log.load(Lead, sms.lead_id)
        if sms.is_deleted or sms.status != SmsStatus.PENDING:
            # A receipt told what a lost answer did not.
            self._withdraw(claim)
            self._end_quietly(claim)
            return None
        try:
            require_reachable(lead)
        except Refusal as refusal:
            self._withdraw(claim)
            self.end(claim, "refused", SmsStatus.FAILED, error=str(refusal))
            return None
        return OutgoingSms(sms.id, sms.workspace_id, sms.phone, sms.message)

    def _call(self, claim: ClaimedMessage, outgoing: OutgoingSms) -> None:
        try:
            gateway_id = self._gateway.send(outgoing)
        except GatewayRefused as refused:
            self._answered(claim)
            error = _line(str(refused))
            self.end(claim, "refused", SmsStatus.FAILED, error=error, error_code=refused.code)
        except GatewayUnavailable as unavailable:
            self._unanswered(claim)
            self._again(claim, unavailable)
        else:
            self._answered(claim)
            self.end(claim, "done", SmsStatus.SENT, gateway_id=_line(gateway_id))

    def _again(self, claim: ClaimedMessage, unavailable: GatewayUnavailable) -> None:
        facts = {"sms": str(claim.sms_id), "attempt": claim.attempt, "error": str(unavailable)}
        log.warning("a message was not sent", extra={"facts": facts})
        if claim.attempt >= self._retry_policy.attempts_max:
            error = _line(f"given up after {claim.attempt} attempts: {unavailable}")
            self.end(claim, "failed", SmsStatus.FAILED, error=error)
            return
        retry_after_s = min(unavailable.retry_after_s, RETRY_AFTER_MAX_S)
        pause_s = max(self._retry_policy.pause_s(claim.attempt), retry_after_s)
        with self._log.transaction(claim.scope) as connection:
            workspace = claim.scope.workspace_id
            parameters = (_line(str(unavailable)), pause_s, claim.command, workspace)
            connection.execute(LATER, (*parameters, claim.attempt))

    def _end_quietly(self, claim: ClaimedMessage) -> None:
        with self._log.transaction(claim.scope) as connection:
            connection.execute(END, ("done", "", claim.command, claim.scope.workspace_id))

    def _answered(self, claim: ClaimedMessage) -> None:
        self._note(lambda breaker, now: breaker.succeeded(claim.epoch))

    def _unanswered(self, claim: ClaimedMessage) -> None:
        limits = self._retry_policy.breaker
        self._note(lambda breaker, now: breaker.failed(claim.epoch, now, limits))

    def _withdraw(self, claim: ClaimedMessage) -> None:
        self._note(lambda breaker, now: breaker.withdrawn(claim.epoch, now))

    def _note(self, change: Callable[[Breaker, datetime], Breaker]) -> None:
        with self._pool.connection() as connection, connection.transaction():
            before, now = lock_breaker(connection, BREAKER)
            after = change(before, now)
            save_breaker(connection, BREAKER, before, after)
        if after.state is not before.state:
            facts = {"from": before.state, "to": after.state, "until": after.until}
            log.warning("the breaker of the gateway is %s", after.state, extra={"facts": facts})


def _line(text: str) -> str:
    """What others said, as a field can hold it."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return printable[:ERROR_MAX_CHARS].strip() or "no reason was given"
