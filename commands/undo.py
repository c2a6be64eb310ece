"""Undo: later events that take back earlier ones, of one event or of all that a command did.

What an undo records is events like any other. Their metadata says which event each takes back
(`undoesPosition`) and which command that belonged to (`undoes`), so an undo can be undone like
everything else. See docs/adr/0009-undo.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from commands.entities import again_where_outrun
from commands.undo_plan import Plan, Undoing
from domain.account import Account
from domain.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityMerged,
    EntityRestored,
)
from domain.kinds import ENTITY_OF
from domain.refusals import NothingToUndo, NotUndoable, PartOfAWhole, TooMuchToUndo
from eventlog.log import EventLog
from eventlog.scope import Scope
from eventlog.streams import AS_ONE, TracedEvent, Tracing

UNDO_EVENTS_MAX = 1_000
"""Most events that are undone at once; what takes longer than 15 s the database would end."""

Kinds = set[type[Entity]]


@dataclass(frozen=True)
class Asked:
    """What is to be undone: the events at these positions, all of one command where it is named."""

    positions: tuple[int, ...]
    command_id: str | None = None

    def __str__(self) -> str:
        return self.command_id or ", ".join(map(str, self.positions))


@dataclass(frozen=True)
class Undone:
    """What was undone, and the log position by which all of it is recorded."""

    plan: Plan
    position: int


class UndoCommands:
    """Handles undo. Thread-safe; the clock is passed in."""

    def __init__(self, log: EventLog, *, clock: Callable[[], datetime]) -> None:
        self._log = log
        self._clock = clock

    def preview(
        self, scope: Scope, asked: Asked, *, allow: Callable[[Kinds], None] = lambda kinds: None
    ) -> Plan:
        """What undoing would record, as if everything that can be forced were, and what hinders it.

        `allow` is told the kinds concerned, and raises where the caller may not. Raises
        `NothingToUndo`, `TooMuchToUndo`.
        """
        with self._log.transaction(scope):
            return self._plan(scope, asked, allow, hold=False)

    def undo(
        self,
        scope: Scope,
        asked: Asked,
        *,
        force: Iterable[str] = (),
        allow: Callable[[Kinds], None] = lambda kinds: None,
    ) -> Undone:
        """Take the events back, all or none; later changes of the fields in `force` as well.

        Raises as `preview`, and `NotUndoable`, `AlreadyUndone`, `UndoConflict`, `InvalidFields`,
        `NotAMember`.
        """

        def decide() -> Undone:
            with self._log.transaction(scope):
                plan = self._plan(scope, asked, allow, hold=True)
                plan.require_no_obstacle(force)
                return Undone(plan, self._record(scope, plan))

        return again_where_outrun(decide)

    def _plan(
        self, scope: Scope, asked: Asked, allow: Callable[[Kinds], None], *, hold: bool
    ) -> Plan:
        with self._log.transaction(scope) as connection:
            tracing = Tracing(connection, self._log.mapper, scope.workspace_id)
            targets = _targets(tracing, asked)
            allow({ENTITY_OF[each.event.TOPIC] for each in targets})
            final = [each.position for each in targets if each.event.IS_FINAL]
            if final:
                return Plan(final, refusals=[NotUndoable(final)])
            if hold:
                self._hold_accounts(targets)
            return Undoing(self._log, tracing, targets, self._clock()).plan()

    def _hold_accounts(self, targets: list[TracedEvent]) -> None:
        """Nobody adds to accounts that come or go, nor deletes those to which something returns."""
        alone: set[UUID] = set()
        shared: set[UUID | None] = set()
        for each in targets:
            event = each.event
            if isinstance(event, EntityCreated | EntityDeleted | EntityRestored | EntityMerged):
                if _is_of_account(each):
                    alone.add(each.stream_id)
                moved = (getattr(event, name, None) for name in ("moved_to", "moved_from"))
                shared.update((event.account_id, *moved))
        for account_id in sorted(filter(None, alone | shared)):
            if account_id in alone:
                self._log.hold_account_alone(account_id)
            else:
                self._log.hold_account(account_id)

    def _record(self, scope: Scope, plan: Plan) -> int:
        position = None
        for step in plan.steps:
            undoes = {
                "undoes": step.target.metadata.get("commandId", ""),
                "undoesPosition": str(step.target.position),
            }
            if AS_ONE in step.target.metadata:
                undoes[AS_ONE] = "true"
            with self._log.scoped(replace(scope, extra={**scope.extra, **undoes})):
                position = self._log.record(step.events) or position
        return position or self._log.taken_position()


def _targets(tracing: Tracing, asked: Asked) -> list[TracedEvent]:
    """The events asked for, with what an account took along or brought back; in order."""
    found = {
        each.position: each
        for each in tracing.at(asked.positions)
        if asked.command_id is None or each.metadata.get("commandId") == asked.command_id
        if each.event.TOPIC in ENTITY_OF
    }
    found = {at: each for at, each in found.items() if each.event.TOPIC in ENTITY_OF}
    if not found:
        raise NothingToUndo(str(asked))
    if asked.command_id is None:
        for each in found.values():
            if AS_ONE in each.metadata:
                raise PartOfAWhole(each.metadata["commandId"])
    for each in [each for each in found.values() if _is_of_account(each)]:
        along: list[int] = []
        if isinstance(each.event, EntityDeleted):
            along = tracing.deleted_along(each)
        elif isinstance(each.event, EntityRestored):
            along = tracing.restored_along(each)
        found.update((more.position, more) for more in tracing.at(set(along) - found.keys()))
    if len(found) > UNDO_EVENTS_MAX:
        raise TooMuchToUndo(UNDO_EVENTS_MAX)
    return sorted(found.values(), key=lambda each: each.position)


def _is_of_account(traced: TracedEvent) -> bool:
    return ENTITY_OF[traced.event.TOPIC] is Account
