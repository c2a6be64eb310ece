"""Run the commands of process managers: each once, in the transaction that records it as done.

A refusal ends a command, because another attempt would be refused too. Any other failure is logged,
and the command is retried without a limit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from commands.sms import SmsCommands
from domain.shared.refusals import Refusal
from eventlog.connections import Connection
from eventlog.scope import SYSTEM, Scope
from eventlog.store.log import EventLog

log = logging.getLogger(__name__)

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 300.0
"""The pause before another attempt starts at the first of these values and doubles up to the
second."""
ENDED_KEPT_S = 30 * 86_400
"""Retention of ended commands, which are kept for operators only."""
DELETED_AT_ONCE_MAX = 1_000

# The command with one of these names that has waited longest, unless another sender has locked it.
NEXT_COMMAND = """
SELECT id, workspace_id FROM process_commands
 WHERE state = 'waiting' AND next_attempt_at <= clock_timestamp() AND name = ANY(%s)
 ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
# Lock the command until the end of the transaction, unless another sender has locked it.
LOCK_COMMAND = """
SELECT name, data, metadata FROM process_commands
 WHERE id = %s AND workspace_id = %s AND state = 'waiting' FOR UPDATE SKIP LOCKED
"""
END_COMMAND = """
UPDATE process_commands SET state = %s, error = %s, ended_at = clock_timestamp()
 WHERE id = %s AND workspace_id = %s AND state = 'waiting'
"""
# Schedule another attempt. The exponent is bounded so that the power cannot overflow.
POSTPONE_COMMAND = f"""
UPDATE process_commands
   SET attempts = attempts + 1, error = %s,
       next_attempt_at = clock_timestamp()
           + least({RETRY_MAX_S}, {RETRY_FIRST_S} * 2 ^ least(attempts, 20)) * interval '1 s'
 WHERE id = %s AND workspace_id = %s AND state = 'waiting'
"""
# Delete some of the commands that ended longest ago.
DELETE_ENDED = f"""
DELETE FROM process_commands WHERE id IN (
       SELECT id FROM process_commands
        WHERE state <> 'waiting' AND ended_at < clock_timestamp() - interval '{ENDED_KEPT_S} s'
        LIMIT {DELETED_AT_ONCE_MAX})
"""

CommandHandler = Callable[[Scope, UUID, Mapping[str, Any]], object]
"""Runs a command. The second argument is its id, which a new entity may take as its own."""


def command_handlers(sms: SmsCommands) -> dict[str, CommandHandler]:
    """The handlers of commands that only write to the log, by command name."""

    def request_confirmation(scope: Scope, id_: UUID, data: Mapping[str, Any]) -> object:
        return sms.request_confirmation(scope, UUID(data["appointmentId"]), sms_id=id_)

    def mark_lead_contacted(scope: Scope, _id: UUID, data: Mapping[str, Any]) -> object:
        return sms.mark_lead_contacted(scope, UUID(data["smsId"]))

    return {"tellConfirmed": request_confirmation, "contactLead": mark_lead_contacted}


@dataclass(frozen=True)
class Outbox:
    """Runs the commands that it has handlers for. Several senders may do so concurrently."""

    log: EventLog
    handlers: Mapping[str, CommandHandler]

    def run_next(self, connection: Connection) -> bool:
        """Run the command that has waited longest; return False if none is due."""
        row = connection.execute(NEXT_COMMAND, (list(self.handlers),)).fetchone()
        if row is None:
            return False
        command_id, workspace_id = UUID(str(row[0])), UUID(str(row[1]))
        try:
            self._run(command_id, workspace_id)
        except Exception as error:  # any failure is retried later, so that other commands can run
            log.exception("command %s failed and will be retried", command_id)
            connection.execute(POSTPONE_COMMAND, (type(error).__name__, command_id, workspace_id))
        return True

    def _run(self, command_id: UUID, workspace_id: UUID) -> None:
        with self.log.transaction(Scope(workspace_id)) as connection:
            row = connection.execute(LOCK_COMMAND, (command_id, workspace_id)).fetchone()
            if row is None:
                return  # another sender runs it
            name, data, metadata = row
            scope = command_scope(command_id, workspace_id, name, metadata)
            try:
                with self.log.transaction(scope):
                    self.handlers[name](scope, command_id, orjson.loads(data))
            except Refusal as refusal:
                log.warning("command %s was refused: %s", command_id, refusal)
                parameters = ("refused", type(refusal).__name__, command_id, workspace_id)
                connection.execute(END_COMMAND, parameters)
            else:
                connection.execute(END_COMMAND, ("done", "", command_id, workspace_id))


def command_scope(command_id: UUID, workspace_id: UUID, name: str, metadata: bytes) -> Scope:
    """The scope of a process's command, with the correlation and causation ids of its event."""
    ids = orjson.loads(metadata)
    return Scope(
        workspace_id,
        SYSTEM,
        command=name,
        command_id=str(command_id),
        correlation_id=ids["correlationId"],
        causation_id=ids["causationId"],
    )
