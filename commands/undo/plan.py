"""What undoes some events: decided here, the last of them first. Nothing is recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from commands.links import MEMBER_FIELDS
from domain.account import Account
from domain.member import Member
from domain.shared.changes import equal_as_json, flatten
from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityEvent,
    EntityRestored,
    EntityStatusChanged,
    EntityUpdated,
)
from domain.shared.kinds import ENTITY_OF
from domain.shared.merging import EntityMerged
from domain.shared.refusals import (
    AlreadyUndone,
    Conflict,
    InvalidFields,
    NotAMember,
    NotUndoable,
    Refusal,
    UndoConflict,
)
from eventlog.store.log import EventLog, evolve
from eventlog.store.streams import EventSearch, TracedEvent

EXISTS = "exists"
"""Names in conflicts that the thing itself came or went."""
ACCOUNT = "accountId"


@dataclass(frozen=True)
class UndoStep:
    """What is recorded to undo one event."""

    target: TracedEvent
    events: tuple[EntityEvent, ...]


@dataclass
class UndoPlan:
    """What an undo would record, in order, and what stands in its way."""

    positions: list[int]
    """Of the events that are undone, in the order in which they are."""
    steps: list[UndoStep] = field(default_factory=list)
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
class UndoAttempt:
    """What came of undoing one event, or the two of a move, by itself."""

    targets: tuple[TracedEvent, ...]
    plan: UndoPlan
    refusal: Refusal | None = None
    """Why it stays as it is."""


class UndoPlanner:
    """Decides what undoes the given events, the last of them first. Nothing is recorded here."""

    def __init__(
        self, log: EventLog, tracing: EventSearch, targets: Sequence[TracedEvent], now: datetime
    ) -> None:
        self._log = log
        self._tracing = tracing
        self._targets = targets
        self._positions = frozenset(each.position for each in targets)
        self._now = now
        self._histories = tracing.streams({each.stream_id for each in targets})
        self._entities: dict[UUID, Entity] = {}
        self._hanging: dict[UUID, list[Entity]] = {}
        self._decided: dict[UUID, list[EntityEvent]] = {}
        self._undone: dict[UUID, dict[int, TracedEvent]] = {}
        self._conflicts: dict[tuple[UUID, str], Conflict] = {}
        self._refusals: list[Refusal] = []

    def plan(self) -> UndoPlan:
        """The plan for all of them; what is undone already is left as it is."""
        targets = self._open_targets()
        if not targets:
            return self._plan_of_undone()
        plan = UndoPlan([each.position for each in targets])
        plan.steps = [step for target in targets for step in self._steps(target)]
        plan.conflicts = list(self._conflicts.values())
        plan.refusals = self._refusals
        return plan

    def each(self, force: Iterable[str]) -> Iterator[UndoAttempt]:
        """What comes of each of them by itself, the last one first; what fails leaves no trace.

        A move is two events, and done as one.
        """
        for target in reversed(self._targets):
            if _is_mere_note(target) or target.position in self._undone_of(target.stream_id):
                yield UndoAttempt((target,), UndoPlan([target.position]))
        moving: list[TracedEvent] = []
        for target in self._open_targets():
            moving.append(target)
            if getattr(target.event, "moved_from", None) is None:
                yield self._attempt(tuple(moving), force)
                moving = []
        if moving:
            yield self._attempt(tuple(moving), force)

    def _attempt(self, targets: tuple[TracedEvent, ...], force: Iterable[str]) -> UndoAttempt:
        self._conflicts, self._refusals = {}, []
        plan = UndoPlan([each.position for each in targets])
        final = [each.position for each in targets if each.event.IS_IRREVERSIBLE]
        if final:
            return UndoAttempt(targets, plan, NotUndoable(final))
        plan.steps = [step for target in targets for step in self._steps(target)]
        plan.conflicts = list(self._conflicts.values())
        plan.refusals = self._refusals
        try:
            plan.require_no_obstacle(force)
        except Refusal as refusal:
            self._positions -= {*plan.positions}
            for target in targets:
                self._entities.pop(target.stream_id, None)
            return UndoAttempt(targets, plan, refusal)
        for step in plan.steps:
            self._decided.setdefault(step.target.stream_id, []).extend(step.events)
        return UndoAttempt(targets, plan)

    def _open_targets(self) -> list[TracedEvent]:
        """Those that are not undone yet, the last one first; without those that changed nothing."""
        return [
            each
            for each in reversed(self._targets)
            if each.position not in self._undone_of(each.stream_id) and not _is_mere_note(each)
        ]

    def _steps(self, target: TracedEvent) -> Iterator[UndoStep]:
        entity = self._entity(target.stream_id)
        self._take_back(target, entity)
        events: Any = tuple(entity.collect_events())
        if events:
            yield UndoStep(target, events)

    def _plan_of_undone(self) -> UndoPlan:
        undone = (self._undone_of(each.stream_id).get(each.position) for each in self._targets)
        by = next(filter(None, undone))
        refusal = AlreadyUndone(by.position, by.metadata.get("commandId", ""))
        return UndoPlan([each.position for each in self._targets], refusals=[refusal])

    def _take_back(self, target: TracedEvent, entity: Entity) -> None:
        event = target.event
        if isinstance(event, EntityCreated):
            self._take_away(target, entity)
        elif isinstance(event, EntityRestored) and event.moved_from is not None:
            self._move_away(target, entity, event.moved_from)
        elif isinstance(event, EntityRestored):
            deletion = self._history(target.stream_id)[target.version - 2].event
            assert isinstance(deletion, EntityDeleted)
            self._take_away(target, entity, deletion)
        elif isinstance(event, EntityDeleted) and event.moved_to is not None:
            self._move_back(target, entity)
        elif isinstance(event, EntityDeleted):
            self._bring_back(target, entity)
        elif isinstance(event, EntityUpdated):
            before = {name: change["before"] for name, change in event.changes.items()}
            self._set_back(target, entity, before)
        elif isinstance(event, EntityStatusChanged):
            self._set_back(target, entity, {str(entity.STATUS_FIELD): event.before})

    def _take_away(
        self, target: TracedEvent, entity: Entity, again: EntityDeleted | None = None
    ) -> None:
        """As it was gone before: by itself, with its account, or into another one."""
        if entity.is_deleted:
            return
        for later in self._later(target):
            for name in sorted(_touched(later.event, entity)):
                self._conflict(later, name)
        if isinstance(entity, Account):
            self._require_nothing_hangs_on(entity)
        entity.delete(
            at=self._time(entity),
            deleted_with=again.deleted_with if again else None,
            merged_into=again.merged_into if again else None,
        )

    def _bring_back(self, target: TracedEvent, entity: Entity) -> None:
        if not entity.is_deleted:
            return
        can_force = entity.merged_into in (None, getattr(target.event, "merged_into", None))
        for later in self._later(target):
            self._conflict(later, EXISTS, can_force=can_force)
        if not can_force:
            return
        self._require_there(entity.account_id)
        entity.undo_delete(at=self._time(entity))

    def _move_away(self, target: TracedEvent, entity: Entity, account_id: UUID) -> None:
        """From the account to which it came with this event."""
        is_elsewhere = entity.account_id != target.event.account_id
        can_force = not is_elsewhere and entity.merged_into is None
        for later in self._later(target):
            for name in sorted(_touched(later.event, entity) & {EXISTS, ACCOUNT}):
                self._conflict(later, name, can_force=can_force)
        if not is_elsewhere and not entity.is_deleted:
            entity.begin_move(account_id, at=self._time(entity))

    def _move_back(self, target: TracedEvent, entity: Entity) -> None:
        """To the account which it left with this event. What was deleted since is so no more."""
        account_id = target.event.account_id
        if account_id is not None and entity.is_deleted and entity.merged_into is None:
            self._require_there(account_id)
            entity.complete_move(account_id, at=self._time(entity))

    def _require_there(self, account_id: UUID | None) -> None:
        if account_id is not None and self._entity(account_id).is_deleted:
            self._conflict(self._history(account_id)[-1], ACCOUNT, can_force=False)

    def _set_back(self, target: TracedEvent, entity: Entity, before: dict[str, Any]) -> None:
        now = flatten(entity.values)
        wanted = {
            name: value for name, value in before.items() if not equal_as_json(now.get(name), value)
        }
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
        children = [each.id for each in self._hanging_on(account.id) if not each.is_deleted]
        self._load({*children} - self._histories.keys())
        for child_id in children:
            child = self._entity(child_id)
            if child.account_id == account.id and not child.is_deleted:
                came = [
                    each
                    for each in self._history(child_id)
                    if isinstance(each.event, EntityCreated | EntityRestored)
                ]
                self._conflict(came[-1], ACCOUNT, can_force=False)

    def _hanging_on(self, account_id: UUID) -> list[Entity]:
        """As it is in the log; of all accounts that go, asked for at once."""
        if account_id not in self._hanging:
            going = {
                each.stream_id
                for each in self._targets
                if isinstance(each.event, EntityCreated | EntityRestored)
                and ENTITY_OF[each.event.TOPIC] is Account
            }
            self._hanging = self._log.children_of({*going, account_id})
        return self._hanging[account_id]

    def _require_members(self, wanted: dict[str, Any]) -> None:
        for name in MEMBER_FIELDS:
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
            events += self._decided.get(stream_id, ())
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


def _undoes(traced: TracedEvent) -> int | None:
    position = traced.metadata.get("undoesPosition")
    return None if position is None else int(position)


def _is_mere_note(traced: TracedEvent) -> bool:
    """Whether it says that two were merged, and no field was taken over."""
    return isinstance(traced.event, EntityMerged) and not traced.event.changes


def _touched(event: EntityEvent, entity: Entity) -> set[str]:
    """The fields that the event changed, `exists` where it is about the thing itself."""
    if isinstance(event, EntityUpdated):
        return set(event.changes)
    if isinstance(event, EntityStatusChanged):
        return {str(entity.STATUS_FIELD)}
    is_move = getattr(event, "moved_to", None) or getattr(event, "moved_from", None)
    return {ACCOUNT if is_move else EXISTS}
