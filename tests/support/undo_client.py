"""A client for tests of undo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from commands.entities import EntityCommands
from commands.merging import MergeCommands, MergeOutcome
from commands.undo.commands import UndoCommands, UndoOutcome, UndoTarget
from domain.shared.entity import Entity
from domain.shared.merging import MergeableEntity
from domain.shared.refusals import UndoConflict
from eventlog.scope import Scope
from eventlog.store.log import EventLog

ACME = {"company": "Acme", "type": "customer"}


class UndoClient:
    """Runs commands and undoes them by position or by command."""

    def __init__(self, log: EventLog, commands: EntityCommands, scope: Scope) -> None:
        self.log = log
        self.commands = commands
        self.merging = MergeCommands(log, clock=lambda: datetime.now(UTC))
        self.undoing = UndoCommands(log, clock=lambda: datetime.now(UTC))
        self.scope = replace(scope, command_id="")

    def new_scope(self) -> Scope:
        """Return a scope with a new command id."""
        return replace(self.scope, command_id=str(uuid4()))

    def make(self, kind: type[Entity], account: UUID | None = None, **fields: Any) -> UUID:
        """Create an entity; return its id."""
        outcome = self.commands.create(self.new_scope(), kind, fields, account_id=account)
        return outcome.entity.id

    def set(
        self, kind: type[Entity], entity_id: UUID, scope: Scope | None = None, **to: Any
    ) -> int:
        """Set fields; return the position."""
        return self.commands.revise(
            scope or self.new_scope(), kind, entity_id, lambda values: {**values, **to}
        ).position

    def delete(self, kind: type[Entity], entity_id: UUID) -> int:
        """Delete an entity; return the position."""
        return self.commands.delete(self.new_scope(), kind, entity_id).position

    def merge(
        self,
        kind: type[MergeableEntity],
        this: UUID,
        other: UUID,
        choices: dict[str, Any] | None = None,
        **versions: int,
    ) -> tuple[MergeOutcome, str]:
        """Merge the other entity into this one; return the outcome and the command's id."""
        scope = self.new_scope()
        merged = self.merging.merge(scope, kind, this, other, choices or {}, **versions)
        return merged, scope.command_id

    def load(self, kind: type[Entity], entity_id: UUID) -> Entity:
        """Return the current entity."""
        with self.log.scoped(self.scope):
            return self.log.load(kind, entity_id)

    def positions(self, command_id: str) -> tuple[int, ...]:
        """Return the positions of the events of a command."""
        with self.log.transaction(self.scope) as connection:
            rows = connection.execute(
                "SELECT position FROM events WHERE workspace_id = %s"
                " AND metadata->>'commandId' = %s ORDER BY position",
                (self.scope.workspace_id, command_id),
            ).fetchall()
        return tuple(row[0] for row in rows)

    def undo(self, *positions: int, force: tuple[str, ...] = ()) -> UndoOutcome:
        """Undo the events at these positions."""
        return self.undoing.undo(self.new_scope(), UndoTarget(positions), force=force)

    def undo_command(self, command_id: str) -> str:
        """Undo all events of the command; return the id of the undoing command."""
        scope = self.new_scope()
        self.undoing.undo(scope, UndoTarget(self.positions(command_id), command_id))
        return scope.command_id


def conflicts(act: Callable[[], Any]) -> list[tuple[str, str, bool]]:
    """Return the conflicts of an undo: kind, field, and whether it can be forced."""
    with pytest.raises(UndoConflict) as refused:
        act()
    return [(each.kind, each.field, each.can_force) for each in refused.value.conflicts]
