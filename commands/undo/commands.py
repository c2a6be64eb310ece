"""Undo: later events that take back earlier ones, of one event or of all that a command did.

What an undo records is events like any other. Their metadata says which event each takes back
(`undoesPosition`) and which command that belonged to (`undoes`), so an undo can be undone like
everything else. See docs/adr/0009-undo.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from commands.entities import retry_on_conflict
from commands.undo.plan import UndoAttempt, UndoPlan, UndoPlanner
from domain.account import Account
from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityRestored,
)
from domain.shared.kinds import ENTITY_OF
from domain.shared.merging import EntityMerged
from domain.shared.refusals import NothingToUndo, NotUndoable, PartOfAWhole, TooMuchToUndo
from eventlog.scope import AS_ONE, Scope
from eventlog.store.log import EventLog
from eventlog.store.streams import EventSearch, TracedEvent

UNDO_EVENTS_MAX = 1_000
"""Most events that are undone at once; a job undoes more."""
UNDO_AS_ONE_EVENTS_MAX = 5_000
"""Most of a whole, such as a merge, of which no part is undone without the rest. What takes longer
than 15 s the database would end; this takes some 4 s on a busy machine of two cores."""

Kinds = set[type[Entity]]


@dataclass(frozen=True)
class UndoTarget:
    """What is to be undone: the events at these positions, all of one command where it is named."""

    positions: tuple[int, ...]
    command_id: str | None = None

    def __str__(self) -> str:
        return self.command_id or ", ".join(map(str, self.positions))


@dataclass(frozen=True)
class UndoOutcome:
    """What was undone, and the log position by which all of it is recorded."""

    plan: UndoPlan
    position: int


class UndoCommands:
    """Handles undo. Thread-safe; the clock is passed in."""

    def __init__(self, log: EventLog, *, clock: Callable[[], datetime]) -> None:
        self._log = log
        self._clock = clock

    def preview(
        self,
        scope: Scope,
        asked: UndoTarget,
        *,
        allow: Callable[[Kinds], None] = lambda kinds: None,
    ) -> UndoPlan:
        """What undoing would record, as if everything that can be forced were, and what hinders it.

        `allow` is told the kinds concerned, and raises where the caller may not. Raises
        `NothingToUndo`, `TooMuchToUndo`.
        """
        with self._log.transaction(scope):
            return self._plan(scope, asked, allow, hold=False)

    def undo(
        self,
        scope: Scope,
        asked: UndoTarget,
        *,
        force: Iterable[str] = (),
        allow: Callable[[Kinds], None] = lambda kinds: None,
    ) -> UndoOutcome:
        """Take the events back, all or none; later changes of the fields in `force` as well.

        Raises as `preview`, and `NotUndoable`, `AlreadyUndone`, `UndoConflict`, `InvalidFields`,
        `NotAMember`.
        """

        def decide() -> UndoOutcome:
            with self._log.transaction(scope):
                plan = self._plan(scope, asked, allow, hold=True)
                plan.require_no_obstacle(force)
                return UndoOutcome(plan, self._record(plan))

        return retry_on_conflict(decide)

    def undo_each(
        self, scope: Scope, command_id: str, positions: Sequence[int], *, force: Iterable[str] = ()
    ) -> list[UndoAttempt]:
        """Take back each of these events of a command by itself, the last one first.

        What stands in the way of one leaves that one as it is, and is told. Where an event brings
        something to an account, the one before it has to be among them.
        """

        def decide() -> list[UndoAttempt]:
            with self._log.transaction(scope):
                attempts = self._attempts(scope, command_id, positions, force, hold=True)
                events = [
                    (event, undo_metadata(step.target))
                    for attempt in attempts
                    if attempt.refusal is None
                    for step in attempt.plan.steps
                    for event in step.events
                ]
                self._log.record_each(events)
                return attempts

        return retry_on_conflict(decide)

    def ends_move(self, scope: Scope, position: int) -> bool:
        """Whether the event there brings something to an account that left another just before."""
        with self._log.transaction(scope) as connection:
            tracing = EventSearch(connection, self._log.mapper, scope.workspace_id)
            return any(getattr(each.event, "moved_from", None) for each in tracing.at([position]))

    def preview_each(
        self, scope: Scope, command_id: str, positions: Sequence[int]
    ) -> list[UndoAttempt]:
        """What would come of each of these. Nothing is recorded."""
        with self._log.transaction(scope):
            return self._attempts(scope, command_id, positions, (), hold=False)

    def _attempts(
        self,
        scope: Scope,
        command_id: str,
        positions: Sequence[int],
        force: Iterable[str],
        *,
        hold: bool,
    ) -> list[UndoAttempt]:
        with self._log.transaction(scope) as connection:
            tracing = EventSearch(connection, self._log.mapper, scope.workspace_id)
            found = tracing.at(positions)
            targets = [each for each in found if _is_of(each, command_id)]
            if hold:
                self._hold_accounts(targets)
            return list(UndoPlanner(self._log, tracing, targets, self._clock()).each(force))

    def _plan(
        self, scope: Scope, asked: UndoTarget, allow: Callable[[Kinds], None], *, hold: bool
    ) -> UndoPlan:
        with self._log.transaction(scope) as connection:
            tracing = EventSearch(connection, self._log.mapper, scope.workspace_id)
            targets = _targets(tracing, asked)
            allow({ENTITY_OF[each.event.TOPIC] for each in targets})
            final = [each.position for each in targets if each.event.IS_IRREVERSIBLE]
            if final:
                return UndoPlan(final, refusals=[NotUndoable(final)])
            if hold:
                self._hold_accounts(targets)
            return UndoPlanner(self._log, tracing, targets, self._clock()).plan()

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
        self._log.hold_all(alone=alone, shared={*filter(None, shared)})

    def _record(self, plan: UndoPlan) -> int:
        events = [
            (event, undo_metadata(step.target)) for step in plan.steps for event in step.events
        ]
        return self._log.record_each(events) or self._log.taken_position()


def undo_metadata(target: TracedEvent) -> dict[str, str]:
    """What the metadata of an event says that takes this one back."""
    undoes = {
        "undoes": target.metadata.get("commandId", ""),
        "undoesPosition": str(target.position),
    }
    return {**undoes, AS_ONE: "true"} if AS_ONE in target.metadata else undoes


def _targets(tracing: EventSearch, asked: UndoTarget) -> list[TracedEvent]:
    """The events asked for, with what an account took along or brought back; in order."""
    found = {
        each.position: each
        for each in tracing.at(asked.positions)
        if _is_of(each, asked.command_id)
    }
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
    is_whole = any(AS_ONE in each.metadata for each in found.values())
    limit = UNDO_AS_ONE_EVENTS_MAX if is_whole else UNDO_EVENTS_MAX
    if len(found) > limit:
        raise TooMuchToUndo(limit)
    return sorted(found.values(), key=lambda each: each.position)


def _is_of_account(traced: TracedEvent) -> bool:
    return ENTITY_OF[traced.event.TOPIC] is Account


def _is_of(traced: TracedEvent, command_id: str | None) -> bool:
    """Whether it happened to an entity, by this command where one is named."""
    is_of_command = command_id is None or traced.metadata.get("commandId") == command_id
    return is_of_command and traced.event.TOPIC in ENTITY_OF
