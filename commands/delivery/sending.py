"""Send text messages: claim a message, call the gateway, record the result.

No lock is held during the call. A claim is a row that no other sender takes before its lease ends.
If a sender crashes while it holds a claim, that counts as an attempt, and the message is sent again
under the same id. docs/adr/0015-process-managers-and-sms.md lists the effects of a crash by step.
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
from commands.delivery.outbox import END_COMMAND, command_scope
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
"""Upper bound for the pause that a gateway asks for."""

# The message that has waited longest, unless another sender has locked it.
NEXT_MESSAGE = """
SELECT id, workspace_id, data->>'smsId', metadata, attempts,
       extract(epoch FROM clock_timestamp() - created_at)
  FROM process_commands
 WHERE state = 'waiting' AND next_attempt_at <= clock_timestamp() AND name = %s
 ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
# Count the attempt, and keep other senders away until the lease ends.
CLAIM_MESSAGE = """
UPDATE process_commands
   SET attempts = %s, next_attempt_at = clock_timestamp() + make_interval(secs => %s)
 WHERE id = %s AND workspace_id = %s
"""
# Schedule another attempt, unless the lease has ended and another attempt has begun.
POSTPONE_MESSAGE = """
UPDATE process_commands
   SET error = %s, next_attempt_at = clock_timestamp() + make_interval(secs => %s)
 WHERE id = %s AND workspace_id = %s AND state = 'waiting' AND attempts = %s
"""

BREAKER_LIMITS = Limits()


@dataclass(frozen=True)
class RetryPolicy:
    """Limits on the attempts to send a message."""

    attempts_max: int = 5
    backoff_first_s: float = 1.0
    """The pause after the first attempt; it doubles after each further attempt."""
    backoff_max_s: float = 4.0
    """Upper bound of the pause, without jitter."""
    jitter_s: float = 0.5
    """Upper bound of a random addition to the pause, which spreads the retries of many messages."""
    lease_s: float = 15.0
    """Duration of a claim, which has to be longer than the timeout of the gateway."""
    expire_s: float = 86_400.0
    """Age after which a message is not sent any more, because it is out of date."""
    breaker: Limits = BREAKER_LIMITS

    def pause_s(self, attempts: int) -> float:
        """The pause after this number of attempts."""
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = attempts
        backoff = wait_exponential(multiplier=self.backoff_first_s, max=self.backoff_max_s)
        return (backoff + wait_random(0, self.jitter_s))(state)


@dataclass(frozen=True)
class ClaimedMessage:
    """A message that this sender may send until the lease ends."""

    command: UUID
    sms_id: UUID
    scope: Scope
    attempt: int
    epoch: int
    """The epoch of the breaker that admitted the call."""
    give_up_reason: str = ""
    """The reason against another attempt; empty if there is none."""


class SmsDelivery:
    """Sends one message per call of `send_next`. Thread-safe; several processes share the work."""

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
        """Try to send the message that has waited longest.

        Returns False if none is due, or if the breaker is open.
        """
        claim = self.claim()
        if claim is None:
            return False
        if claim.give_up_reason:
            self.end(claim, "failed", SmsStatus.FAILED, error=claim.give_up_reason)
            return True
        outgoing = self._prepare(claim)
        if outgoing is not None:
            self._call(claim, outgoing)
        return True

    def claim(self) -> ClaimedMessage | None:
        """Claim the next message and have the breaker admit the call, both in one transaction.

        So the breaker never admits a probe without a message to send.
        """
        with self._pool.connection() as connection, connection.transaction():
            row = connection.execute(NEXT_MESSAGE, (COMMAND,)).fetchone()
            if row is None:
                return None
            breaker, now = lock_breaker(connection, BREAKER)
            command, workspace, sms_id, metadata, attempts, age_s = row
            reason = self._give_up_reason(attempts, float(age_s))
            admitted = breaker if reason else breaker.admit(now, self._retry_policy.breaker)
            if admitted is None:
                return None
            save_breaker(connection, BREAKER, breaker, admitted)
            attempt = attempts if reason else attempts + 1
            parameters = (attempt, self._retry_policy.lease_s, command, workspace)
            connection.execute(CLAIM_MESSAGE, parameters)
        scope = command_scope(command, workspace, COMMAND, metadata)
        return ClaimedMessage(command, UUID(sms_id), scope, attempt, admitted.epoch, reason)

    def end(
        self, claim: ClaimedMessage, state: str, status: SmsStatus, **details: str | None
    ) -> None:
        """Record the status of the message, and end its command, in one transaction.

        `details` are arguments of `Sms.record_status`.
        """
        with self._log.transaction(claim.scope) as connection:
            with suppress(IsDeleted):
                self._sms.record_status(claim.scope, claim.sms_id, status, **details)
            error = details.get("error") or ""
            workspace = claim.scope.workspace_id
            connection.execute(END_COMMAND, (state, error, claim.command, workspace))

    def _give_up_reason(self, attempts: int, age_s: float) -> str:
        if attempts >= self._retry_policy.attempts_max:
            return f"given up after {attempts} attempts"
        if age_s > self._retry_policy.expire_s:
            return f"not sent within {self._retry_policy.expire_s:.0f} s"
        return ""

    def _prepare(self, claim: ClaimedMessage) -> OutgoingSms | None:
        """The message to send; None if the message or its lead no longer allow that."""
        with self._log.scoped(claim.scope):
            sms = self._log.load(Sms, claim.sms_id)
            lead = self._log.load(Lead, sms.lead_id)
        if sms.is_deleted or sms.status != SmsStatus.PENDING:
            # It was deleted, or a delivery receipt replaced the lost answer to an earlier attempt.
            self._release_breaker(claim)
            self._end_command(claim)
            return None
        try:
            require_reachable(lead)
        except Refusal as refusal:
            self._release_breaker(claim)
            self.end(claim, "refused", SmsStatus.FAILED, error=str(refusal))
            return None
        return OutgoingSms(sms.id, sms.workspace_id, sms.phone, sms.message)

    def _call(self, claim: ClaimedMessage, outgoing: OutgoingSms) -> None:
        try:
            gateway_id = self._gateway.send(outgoing)
        except GatewayRefused as refused:
            self._record_success(claim)
            error = _make_printable(str(refused))
            self.end(claim, "refused", SmsStatus.FAILED, error=error, error_code=refused.code)
        except GatewayUnavailable as unavailable:
            self._record_failure(claim)
            self._postpone(claim, unavailable)
        else:
            self._record_success(claim)
            self.end(claim, "done", SmsStatus.SENT, gateway_id=_make_printable(gateway_id))

    def _postpone(self, claim: ClaimedMessage, unavailable: GatewayUnavailable) -> None:
        facts = {"sms": str(claim.sms_id), "attempt": claim.attempt, "error": str(unavailable)}
        log.warning("a message was not sent", extra={"facts": facts})
        if claim.attempt >= self._retry_policy.attempts_max:
            error = _make_printable(f"given up after {claim.attempt} attempts: {unavailable}")
            self.end(claim, "failed", SmsStatus.FAILED, error=error)
            return
        retry_after_s = min(unavailable.retry_after_s, RETRY_AFTER_MAX_S)
        pause_s = max(self._retry_policy.pause_s(claim.attempt), retry_after_s)
        with self._log.transaction(claim.scope) as connection:
            workspace = claim.scope.workspace_id
            parameters = (_make_printable(str(unavailable)), pause_s, claim.command, workspace)
            connection.execute(POSTPONE_MESSAGE, (*parameters, claim.attempt))

    def _end_command(self, claim: ClaimedMessage) -> None:
        with self._log.transaction(claim.scope) as connection:
            connection.execute(END_COMMAND, ("done", "", claim.command, claim.scope.workspace_id))

    def _record_success(self, claim: ClaimedMessage) -> None:
        """Report to the breaker that the gateway answered, even if with a refusal."""
        self._update_breaker(lambda breaker, now: breaker.succeeded(claim.epoch))

    def _record_failure(self, claim: ClaimedMessage) -> None:
        limits = self._retry_policy.breaker
        self._update_breaker(lambda breaker, now: breaker.failed(claim.epoch, now, limits))

    def _release_breaker(self, claim: ClaimedMessage) -> None:
        """Report to the breaker that the admitted call is not made."""
        self._update_breaker(lambda breaker, now: breaker.withdrawn(claim.epoch, now))

    def _update_breaker(self, change: Callable[[Breaker, datetime], Breaker]) -> None:
        with self._pool.connection() as connection, connection.transaction():
            before, now = lock_breaker(connection, BREAKER)
            after = change(before, now)
            save_breaker(connection, BREAKER, before, after)
        if after.state is not before.state:
            facts = {"from": before.state, "to": after.state, "until": after.until}
            log.warning("the breaker of the gateway is %s", after.state, extra={"facts": facts})


def _make_printable(text: str) -> str:
    """The gateway's text in a form that a field accepts."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return printable[:ERROR_MAX_CHARS].strip() or "no reason was given"
