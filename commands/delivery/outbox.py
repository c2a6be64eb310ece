"""What processes want done is done: each command once, in the transaction that notes that it was.

A refusal ends a command: asking again would be refused again. Anything else that fails is tried
again later, for ever, and said each time.
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
KEEP_ENDED_S = 30 * 86_400
"""So long it can be seen what was done. The inbox never goes back, so nothing comes of it again."""
FORGET_MAX = 1_000

NEXT = """
SELECT id, workspace_id FROM process_commands
 WHERE state = 'waiting' AND next_attempt_at <= clock_timestamp() AND name = ANY(%s)
 ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
TAKE = """
SELECT name, data, metadata FROM process_commands
 WHERE id = %s AND workspace_id = %s AND state = 'waiting' FOR UPDATE SKIP LOCKED
"""
END = """
UPDATE process_commands SET state = %s, error = %s, ended_at = clock_timestamp()
 WHERE id = %s AND workspace_id = %s AND state = 'waiting'
"""
POSTPONE = f"""
UPDATE process_commands
   SET attempts = attempts + 1, error = %s,
       next_attempt_at = clock_timestamp()
           + least({RETRY_MAX_S}, {RETRY_FIRST_S} * 2 ^ least(attempts, 20)) * interval '1 s'
 WHERE id = %s AND workspace_id = %s AND state = 'waiting'
"""
DELETE_ENDED = f"""
DELETE FROM process_commands WHERE id IN (
       SELECT id FROM process_commands
        WHERE state <> 'waiting' AND ended_at < clock_timestamp() - interval '{KEEP_ENDED_S} s'
        LIMIT {FORGET_MAX})
"""

CommandHandler = Callable[[Scope, UUID, Mapping[str, Any]], object]
"""Does a command; is given its id, by which what it makes can be called."""


def command_handlers(sms: SmsCommands) -> dict[str, CommandHandler]:
    """The commands that are done to the log alone, by name."""

    def request_confirmation(scope: Scope, id_: UUID, data: Mapping[str, Any]) -> object:
        return sms.request_confirmation(scope, UUID(data["appointmentId"]), sms_id=id_)

    def mark_lead_contacted(scope: Scope, _id: UUID, data: Mapping[str, Any]) -> object:
        return sms.mark_lead_contacted(scope, UUID(data["smsId"]))

    return {"tellConfirmed": request_confirmation, "contactLead": mark_lead_contacted}


@dataclass(frozen=True)
class Outbox:
    """Does the commands that it has handlers for. Several may work side by side."""

    log: EventLog
    handlers: Mapping[str, CommandHandler]

    def run_next(self, connection: Connection) -> bool:
        """Do the command that waits longest; False where none is due."""
        row = connection.execute(NEXT, (list(self.handlers),)).fetchone()
        if row is None:
            return False
        command, workspace = UUID(str(row[0])), UUID(str(row[1]))
        try:
            self._do(command, workspace)
        except Exception as error:  # whatever it is, the others must not wait for it
            log.exception("command %s failed and is tried again", command)
            connection.execute(POSTPONE, (type(error).__name__, command, workspace))
        return True

    def _do(self, command: UUID, workspace: UUID) -> None:
        with self.log.transaction(Scope(workspace)) as connection:
            row = connection.execute(TAKE, (command, workspace)).fetchone()
            if row is None:
                return  # somebody else was faster
            name, data, metadata = row
            scope = scope_of(command, workspace, name, metadata)
            try:
                with self.log.transaction(scope):
                    self.handlers[name](scope, command, orjson.loads(data))
            except Refusal as refusal:
                log.warning("command %s was refused: %s", command, refusal)
                connection.execute(END, ("refused", type(refusal).__name__, command, workspace))
            else:
                connection.execute(END, ("done", "", command, workspace))


def scope_of(command: UUID, workspace: UUID, name: str, metadata: bytes) -> Scope:
    """Where a process's command acts, and what its events will say of where it came from."""
    known = orjson.loads(metadata)
    return Scope(
        workspace,
        SYSTEM,
        command=name,
        command_id=str(command),
        correlation_id=known["correlationId"],
        causation_id=known["causationId"],
    )
