"""Undo: later events that take back earlier ones, of one event or of all that a command did.

What an undo records is events like any other. Their metadata says which event each takes back
(`undoesPosition`) and which command that belonged to (`undoes`), so an undo can be undone like
everything else. See docs/adr/0009-undo.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from commands.entities import PEOPLE, again_where_outrun
from domain.account import Account
from domain.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityEvent,
    EntityRestored,
    EntityStatusChanged,
    EntityUpdated,
    flat,
    same,
)
from domain.kinds import ENTITY_OF
from domain.member import Member
from domain.refusals import (
    AlreadyUndone,
    Conflict,
    InvalidFields,
    NotAMember,
    NothingToUndo,
    NotUndoable,
    Refusal,
    TooMuchToUndo,
    UndoConflict,
)
from eventlog.log import EventLog, evolve
from eventlog.scope import Scope
from eventlog.streams import TracedEvent, Tracing

UNDO_EVENTS_MAX = 1_000
"""Most events that are undone at once; what takes longer than 15 s the database would end."""
EXISTS = "exists"
"""Names in conflicts that the thing itself came or went."""
ACCOUNT = "accountId"

Kinds = set[type[Entity]]


@dataclass(frozen=True)
class Asked:
    """What is to be undone: the events at these positions, all of one command where it is named."""

    positions: tuple[int, ...]
    command_id: str | None = None

    def __str__(self) -> str:
        return self.command_id or ", ".join(map(str, self.positions))


@dataclass(frozen=True)
class Step:
    """What is recorded to undo one event."""

    target: TracedEvent
    events: tuple[EntityEvent, ...]


@dataclass
class Plan:
    """What an undo would record, in order, and what stands in its way."""

    positions: list[int]
    """Of the events that are undone, in the order in which they are."""
    steps: list[Step] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def unforced(self, force: Iterable[str]) -> list[Conflict]:
        """The conflicts that are not settled by forcing these fields.

        A name is a field's, for all that is undone, or `<entity id>/<field>`, for one.
        """
        named = frozenset(force)
        return [
            each
            for each in self.conflicts
            if not each.can_force
            or named.isdisjoint({each.field, f"{each.entity_id}/{each.field}"})
        ]

    def require_no_obstacle(self, force: Iterable[str]) -> None:
        """Raises `UndoConflict`, and what else the plan met."""
        if unforced := self.unforced(force):
            raise UndoConflict(unforced)
        if self.refusals:
            raise self.refusals[0]


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
        comings = [
            each
            for each in targets
            if isinstance(each.event, EntityCreated | EntityDeleted | EntityRestored)
        ]
        alone = {each.stream_id for each in comings if _is_of_account(each)}
        shared = {each.event.account_id for each in comings} - {None} - alone
        for account_id in sorted(alone):
            self._log.hold_account_alone(account_id)
        for account_id in sorted(filter(None, shared)):
            self._log.hold_account(account_id)

    def _record(self, scope: Scope, plan: Plan) -> int:
        position = None
        for step in plan.steps:
            undoes = {
                "undoes": step.target.metadata.get("commandId", ""),
                "undoesPosition": str(step.target.position),
            }
            with self._log.scoped(replace(scope, extra={**scope.extra, **undoes})):
                position = self._log.record(step.events) or position
        return position or self._log.taken_position()


class Undoing:
    """Decides what undoes the given events, the last of them first. Nothing is recorded here."""

    def __init__(
        self, log: EventLog, tracing: Tracing, targets: Sequence[TracedEvent], now: datetime
    ) -> None:
        self._log = log
        self._tracing = tracing
        self._targets = targets
        self._positions = frozenset(each.position for each in targets)
        self._now = now
        self._histories = tracing.streams({each.stream_id for each in targets})
        self._entities: dict[UUID, Entity] = {}
        self._undone: dict[UUID, dict[int, TracedEvent]] = {}
        self._conflicts: dict[tuple[UUID, str], Conflict] = {}
        self._refusals: list[Refusal] = []

    def plan(self) -> Plan:
        """The plan for all of them; what is undone already is left as it is."""
        open_targets = [
            each for each in self._targets if each.position not in self._undone_of(each.stream_id)
        ]
        if not open_targets:
            return self._plan_of_undone()
        plan = Plan([each.position for each in reversed(open_targets)])
        for target in reversed(open_targets):
            entity = self._entity(target.stream_id)
            self._take_back(target, entity)
            events = tuple(entity.collect_events())
            if events:
                plan.steps.append(Step(target, events))  # type: ignore[arg-type]
        plan.conflicts = list(self._conflicts.values())
        plan.refusals = self._refusals
        return plan

    def _plan_of_undone(self) -> Plan:
        first = self._targets[0]
        by = self._undone_of(first.stream_id)[first.position]
        refusal = AlreadyUndone(by.position, by.metadata.get("commandId", ""))
        return Plan([each.position for each in self._targets], refusals=[refusal])

    def _take_back(self, target: TracedEvent, entity: Entity) -> None:
        event = target.event
        if isinstance(event, EntityCreated):
            self._take_away(target, entity, deleted_with=None)
        elif isinstance(event, EntityRestored):
            deletion = self._history(target.stream_id)[target.version - 2].event
            self._take_away(target, entity, deleted_with=getattr(deletion, "deleted_with", None))
        elif isinstance(event, EntityDeleted):
            self._bring_back(target, entity)
        elif isinstance(event, EntityUpdated):
            before = {name: change["before"] for name, change in event.changes.items()}
            self._set_back(target, entity, before)
        elif isinstance(event, EntityStatusChanged):
            self._set_back(target, entity, {str(entity.STATUS_FIELD): event.before})

    def _take_away(self, target: TracedEvent, entity: Entity, deleted_with: UUID | None) -> None:
        if entity.is_deleted:
            return
        for later in self._later(target):
            for name in sorted(_touched(later.event, entity)):
                self._conflict(later, name)
        if isinstance(entity, Account):
            self._require_nothing_hangs_on(entity)
        entity.delete(at=self._time(entity), deleted_with=deleted_with)

    def _bring_back(self, target: TracedEvent, entity: Entity) -> None:
        if not entity.is_deleted:
            return
        for later in self._later(target):
            self._conflict(later, EXISTS)
        if entity.account_id is not None and self._entity(entity.account_id).is_deleted:
            self._conflict(self._history(entity.account_id)[-1], ACCOUNT, can_force=False)
        entity.restore(at=self._time(entity))

    def _set_back(self, target: TracedEvent, entity: Entity, before: dict[str, Any]) -> None:
        now = flat(entity.facts)
        wanted = {name: value for name, value in before.items() if not same(now.get(name), value)}
        if not wanted:
            return
        if entity.is_deleted:
            self._conflict(self._history(target.stream_id)[-1], EXISTS, can_force=False)
            return
        for later in self._later(target):
            for name in sorted(_touched(later.event, entity) & wanted.keys()):
                self._conflict(later, name)
        self._require_members(wanted)
        try:
            entity.revert(wanted, at=self._time(entity))
        except InvalidFields as invalid:
            self._refusals.append(invalid)

    def _require_nothing_hangs_on(self, account: Account) -> None:
        children = [child_id for child_id, _ in self._log.children(account.id)]
        self._load({*children} - self._histories.keys())
        for child_id in children:
            if not self._entity(child_id).is_deleted:
                came = [
                    each
                    for each in self._history(child_id)
                    if isinstance(each.event, EntityCreated | EntityRestored)
                ]
                self._conflict(came[-1], ACCOUNT, can_force=False)

    def _require_members(self, wanted: dict[str, Any]) -> None:
        for name in PEOPLE:
            if wanted.get(name) is not None:
                member_id = UUID(wanted[name])
                member = self._entity(member_id) if self._history(member_id) else None
                if not isinstance(member, Member) or member.is_deleted:
                    self._refusals.append(NotAMember(member_id))

    def _later(self, target: TracedEvent) -> Iterator[TracedEvent]:
        """What happened to the entity since and still holds: nothing that was undone, nor its undo.

        What is undone along with the target does not count either.
        """
        undone = self._undone_of(target.stream_id)
        for each in self._history(target.stream_id)[target.version :]:
            undoes = _undoes(each)
            is_taken_back = each.position in undone or (undoes or 0) > target.position
            if not is_taken_back and each.position not in self._positions:
                yield each

    def _conflict(self, later: TracedEvent, name: str, *, can_force: bool = True) -> None:
        """Only the last change of a field is told."""
        conflict = Conflict(
            kind=ENTITY_OF[later.event.TOPIC].KIND,
            entity_id=later.stream_id,
            field=name,
            position=later.position,
            actor=later.metadata.get("actor", {}),
            recorded_at=later.recorded_at,
            can_force=can_force,
        )
        self._conflicts[later.stream_id, name] = conflict

    def _undone_of(self, stream_id: UUID) -> dict[int, TracedEvent]:
        """By position of an event that is undone: the event that undid it."""
        if stream_id not in self._undone:
            self._undone[stream_id] = undone_by(self._history(stream_id))
        return self._undone[stream_id]

    def _history(self, stream_id: UUID) -> list[TracedEvent]:
        self._load({stream_id} - self._histories.keys())
        return self._histories[stream_id]

    def _entity(self, stream_id: UUID) -> Entity:
        """The entity as it is with what is decided here so far."""
        if stream_id not in self._entities:
            events = [each.event for each in self._history(stream_id)]
            self._entities[stream_id] = evolve(None, events)
        return self._entities[stream_id]

    def _load(self, stream_ids: set[UUID]) -> None:
        if stream_ids:
            self._histories.update(self._tracing.streams(stream_ids))

    def _time(self, entity: Entity) -> datetime:
        return max(self._now, entity.modified_on)


def undone_by(history: Sequence[TracedEvent]) -> dict[int, TracedEvent]:
    """By position of an event that is undone: the event that undid it.

    Read from the end: an undo that was itself undone undoes nothing.
    """
    found: dict[int, TracedEvent] = {}
    for event in reversed(history):
        undoes = _undoes(event)
        if undoes is not None and event.position not in found:
            found.setdefault(undoes, event)
    return found


def _targets(tracing: Tracing, asked: Asked) -> list[TracedEvent]:
    """The events asked for, with what an account took along or brought back; in order."""
    found = {
        each.position: each
        for each in tracing.at(asked.positions)
        if asked.command_id is None or each.metadata.get("commandId") == asked.command_id
    }
    found = {at: each for at, each in found.items() if each.event.TOPIC in ENTITY_OF}
    if not found:
        raise NothingToUndo(str(asked))
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


def _undoes(traced: TracedEvent) -> int | None:
    position = traced.metadata.get("undoesPosition")
    return None if position is None else int(position)


def _touched(event: EntityEvent, entity: Entity) -> set[str]:
    """The fields that the event changed, `exists` where it is about the thing itself."""
    if isinstance(event, EntityUpdated):
        return set(event.changes)
    if isinstance(event, EntityStatusChanged):
        return {str(entity.STATUS_FIELD)}
    return {EXISTS}
