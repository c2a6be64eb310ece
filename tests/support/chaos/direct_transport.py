"""Runs the commands of a client in its own process, on the log."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

from eventsourcing.persistence import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    PersistenceError,
)

from commands.decisions import CommandOutcome
from commands.entities import EntityCommands
from domain.shared.refusals import Refusal
from eventlog.reading import readable_position
from eventlog.scope import Actor, Credential, Scope
from eventlog.store.log import EventLog
from tests.support.chaos.journal import Answer
from tests.support.chaos.operations import Request

WRITER_LIMIT_S = 15.0
"""Time after which PostgreSQL disconnects a writer that holds followers back."""
READABLE_POLL_S = 0.01


class DirectTransport:
    """Runs commands in this process, on the log."""

    makes_ids = True

    def __init__(
        self, log: EventLog, workspace: UUID, credential: Credential | None = None
    ) -> None:
        self._log = log
        self._credential = credential
        self._workspace = workspace
        self._commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)

    def perform(self, request: Request) -> Answer:
        """Run the command and return the answer."""
        sent = request.sent
        actor = Actor("system", sent.client)
        scope = Scope(
            self._workspace,
            actor,
            command=sent.command,
            command_id=sent.op,
            user_agent=sent.op,
            credential=self._credential,
        )
        try:
            if sent.command == "read":
                return self._read(request, scope)
            outcome = self._command(request, scope)
        except (Refusal, IntegrityError) as error:
            return Answer(sent.op, "refused", detail=f"{type(error).__name__}: {error}")
        except (OperationalError, InterfaceError) as error:
            return Answer(sent.op, "unknown", detail=f"{type(error).__name__}: {error}")
        except PersistenceError as error:
            return Answer(sent.op, "unexpected", detail=f"{type(error).__name__}: {error}")
        entity = outcome.entity
        return Answer(sent.op, "acknowledged", str(entity.id), entity.version, outcome.position)

    def _command(self, request: Request, scope: Scope) -> CommandOutcome:
        sent, kind, commands = request.sent, request.kind, self._commands
        entity_id = UUID(sent.stream)
        if sent.command == "create":
            account_id = UUID(request.account) if request.account else None
            return commands.create(
                scope, kind, request.fields, account_id=account_id, entity_id=entity_id
            )
        version = sent.expected_version
        if sent.command == "delete":
            return commands.delete(scope, kind, entity_id, expected_version=version)
        if sent.command == "restore":
            return commands.restore(scope, kind, entity_id, expected_version=version)
        return commands.revise(
            scope,
            kind,
            entity_id,
            lambda facts: {**facts, **request.fields},
            expected_version=version,
        )

    def _read(self, request: Request, scope: Scope) -> Answer:
        stream = str(request.sent.stream)
        with self._log.transaction(scope) as connection:
            # Another client's event with a lower position may be committed after the client's own.
            deadline = time.monotonic() + WRITER_LIMIT_S
            while (
                readable_position(connection) < request.sent.min_position
                and time.monotonic() < deadline
            ):
                time.sleep(READABLE_POLL_S)  # until the writers below the position have ended
            entity = self._log.load(request.kind, UUID(stream))
        version = None if entity.is_deleted else entity.version
        return Answer(request.sent.op, "acknowledged", stream, version)
