"""Decide on the events that undo others, starting with the last one. Nothing is recorded here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from commands.links import MEMBER_FIELDS, is_member
from commands.loaded import LoadedEntities, event_time
from commands.undo.histories import EntityHistories, undone_position
from domain.account import Account
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
from eventlog.scope import AS_ONE
from eventlog.store.search import TracedEvent

EXISTS = "exists"
"""The field of a conflict with the creation, deletion or restoration of an entity."""
ACCOUNT = "accountId"


@dataclass(frozen=True)
class UndoStep:
    """The events that undo one event."""

    target: TracedEvent
    events: tuple[EntityEvent, ...]


@dataclass
class UndoPlan:
    """The events that an undo would record, in order, and the obstacles."""

    positions: list[int]
    """Positions of the events to undo, the last one first."""
    steps: list[UndoStep] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def unforced(self, force: Iterable[str]) -> list[Conflict]:
        """The conflicts that remain if these fields are forced.

        A name is that of a field, for all entities, or `<entity id>/<field>`, for one entity.
        """
        forced = frozenset(force)
        return [
            each
            for each in self.conflicts
            if not each.can_force
            or forced.isdisjoint({each.field, f"{each.entity_id}/{each.field}"})
        ]

    def require_no_obstacle(self, force: Iterable[str]) -> None:
        """Raise `UndoConflict` for conflicts that are not forced, else the first refusal."""
        if unforced := self.unforced(force):
            raise UndoConflict(unforced)
        if self.refusals:
            raise self.refusals[0]


@dataclass(frozen=True)
class UndoAttempt:
    """The outcome of undoing one event, or the two events of a move, on its own."""

    targets: tuple[TracedEvent, ...]
    plan: UndoPlan
    refusal: Refusal | None = None
    """The reason why the event is not undone."""


class UndoPlanner:
    """Decides on the events that undo the given ones, starting with the last of these.

    The caller has locked the accounts concerned, and loads entities from the same histories.
    """

    def __init__(
        self,
        loaded: LoadedEntities,
        histories: EntityHistories,
        targets: Sequence[TracedEvent],
        now: datetime,
    ) -> None:
        self._loaded = loaded
        self._histories = histories
        self._targets = targets
        self._positions = {each.position for each in targets}
        self._now = now
        self._conflicts: dict[tuple[UUID, str], Conflict] = {}
        self._refusals: list[Refusal] = []
        loaded.load(each.stream_id for each in targets)

    def plan(self) -> UndoPlan:
        """The plan for all targets together. Targets that are undone already are left out."""
        targets = self._open_targets()
        if not targets:
            return self._plan_of_undone()
        return self._plan_of(targets)

    def attempt_each(self, force: Iterable[str]) -> Iterator[UndoAttempt]:
        """Decide on each target on its own, the last one first, and stage the events.

        A target that is refused changes nothing. The two events of a move are undone together.
        """
        for target in reversed(self._targets):
            if _changed_nothing(target) or self._is_undone(target):
                yield UndoAttempt((target,), UndoPlan([target.position]))
        move: list[TracedEvent] = []
        for target in self._open_targets():
            move.append(target)
            if getattr(target.event, "moved_from", None) is None:
                yield self._attempt(tuple(move), force)
                move = []
        if move:
            yield self._attempt(tuple(move), force)

    def _attempt(self, targets: tuple[TracedEvent, ...], force: Iterable[str]) -> UndoAttempt:
        positions = [each.position for each in targets]
        irreversible = [each.position for each in targets if each.event.IS_IRREVERSIBLE]
        if irreversible:
            return UndoAttempt(targets, UndoPlan(positions), NotUndoable(irreversible))
        self._conflicts, self._refusals = {}, []
        plan = self._plan_of(targets)
        try:
            plan.require_no_obstacle(force)
        except Refusal as refusal:
            self._positions.difference_update(positions)
            self._loaded.discard(each.stream_id for each in targets)
            return UndoAttempt(targets, plan, refusal)
        stage_plan(self._loaded, plan)
        return UndoAttempt(targets, plan)

    def _plan_of(self, targets: Sequence[TracedEvent]) -> UndoPlan:
        plan = UndoPlan([each.position for each in targets])
        plan.steps = [step for target in targets if (step := self._step(target)).events]
        plan.conflicts = list(self._conflicts.values())
        plan.refusals = self._refusals
        return plan

    def _plan_of_undone(self) -> UndoPlan:
        undone = (
            self._histories.undone_of(each.stream_id).get(each.position) for each in self._targets
        )
        by = next(filter(None, undone))
        refusal = AlreadyUndone(by.position, by.metadata.get("commandId", ""))
        return UndoPlan([each.position for each in self._targets], refusals=[refusal])

    def _open_targets(self) -> list[TracedEvent]:
        """The targets that changed something and are not undone yet, the last one first."""
        return [
            each
            for each in reversed(self._targets)
            if not self._is_undone(each) and not _changed_nothing(each)
        ]

    def _is_undone(self, target: TracedEvent) -> bool:
        return target.position in self._histories.undone_of(target.stream_id)

    def _step(self, target: TracedEvent) -> UndoStep:
        entity = self._loaded.find(Entity, target.stream_id)
        assert entity is not None, "an event has an entity"
        self._undo_event(target, entity)
        events: Any = tuple(entity.collect_events())
        return UndoStep(target, events)

    def _undo_event(self, target: TracedEvent, entity: Entity) -> None:
        event = target.event
        if isinstance(event, EntityCreated):
            self._undo_appearance(target, entity)
        elif isinstance(event, EntityRestored) and event.moved_from is not None:
            self._undo_arrival(target, entity, event.moved_from)
        elif isinstance(event, EntityRestored):
            deletion = self._histories.of(target.stream_id)[target.version - 2].event
            assert isinstance(deletion, EntityDeleted)
            self._undo_appearance(target, entity, deletion)
        elif isinstance(event, EntityDeleted) and event.moved_to is not None:
            self._undo_departure(target, entity)
        elif isinstance(event, EntityDeleted):
            self._undo_deletion(target, entity)
        elif isinstance(event, EntityUpdated):
            before = {name: change["before"] for name, change in event.changes.items()}
            self._revert_fields(target, entity, before)
        elif isinstance(event, EntityStatusChanged):
            self._revert_fields(target, entity, {str(entity.STATUS_FIELD): event.before})

    def _undo_appearance(
        self, target: TracedEvent, entity: Entity, deletion: EntityDeleted | None = None
    ) -> None:
        """Delete an entity that was created, or restored after this deletion."""
        if entity.is_deleted:
            return
        for later in self._later(target):
            for name in sorted(_changed_fields(later.event, entity)):
                self._add_conflict(later, name)
        if isinstance(entity, Account):
            self._require_no_children(entity)
        entity.delete(
            at=event_time(entity, self._now),
            deleted_with=deletion.deleted_with if deletion else None,
            merged_into=deletion.merged_into if deletion else None,
        )

    def _undo_deletion(self, target: TracedEvent, entity: Entity) -> None:
        if not entity.is_deleted:
            return
        can_force = entity.merged_into in (None, getattr(target.event, "merged_into", None))
        for later in self._later(target):
            self._add_conflict(later, EXISTS, can_force=can_force)
        if not can_force:
            return
        self._require_account(entity.account_id)
        entity.undo_delete(at=event_time(entity, self._now))

    def _undo_arrival(self, target: TracedEvent, entity: Entity, account_id: UUID) -> None:
        """Undo the second half of a move: leave the account to which the event moved the entity."""
        is_elsewhere = entity.account_id != target.event.account_id
        can_force = not is_elsewhere and entity.merged_into is None
        for later in self._later(target):
            for name in sorted(_changed_fields(later.event, entity) & {EXISTS, ACCOUNT}):
                self._add_conflict(later, name, can_force=can_force)
        if not is_elsewhere and not entity.is_deleted:
            entity.begin_move(account_id, at=event_time(entity, self._now))

    def _undo_departure(self, target: TracedEvent, entity: Entity) -> None:
        """Undo the first half of a move: restore the entity under its former account.

        Only a deleted entity is restored: `_undo_arrival` deleted it, or a later command did.
        """
        account_id = target.event.account_id
        if account_id is not None and entity.is_deleted and entity.merged_into is None:
            self._require_account(account_id)
            entity.complete_move(account_id, at=event_time(entity, self._now))

    def _revert_fields(self, target: TracedEvent, entity: Entity, before: dict[str, Any]) -> None:
        current = flatten(entity.values)
        wanted = {
            name: value
            for name, value in before.items()
            if not equal_as_json(current.get(name), value)
        }
        if not wanted:
            return
        if entity.is_deleted:
            last = self._histories.of(target.stream_id)[-1]
            self._add_conflict(last, EXISTS, can_force=False)
            return
        for later in self._later(target):
            for name in sorted(_changed_fields(later.event, entity) & wanted.keys()):
                self._add_conflict(later, name)
        self._require_members(wanted)
        try:
            entity.revert(wanted, at=event_time(entity, self._now))
        except InvalidFields as invalid:
            self._refusals.append(invalid)

    def _require_account(self, account_id: UUID | None) -> None:
        """Add a conflict if the account is deleted."""
        if account_id is None:
            return
        account = self._loaded.get(Account, account_id)
        if account.is_deleted:
            self._add_conflict(self._histories.of(account_id)[-1], ACCOUNT, can_force=False)

    def _require_no_children(self, account: Account) -> None:
        """Add a conflict for each child that the account has at this point of the plan."""
        appearing = {
            each.stream_id
            for each in self._targets
            if isinstance(each.event, EntityCreated | EntityRestored)
            and ENTITY_OF[each.event.TOPIC] is Account
        }
        self._loaded.load_children({*appearing, account.id})
        children = [
            each
            for each in self._loaded.children_of(account.id)
            if each.account_id == account.id and not each.is_deleted
        ]
        self._histories.load(each.id for each in children)
        for child in children:
            appearances = [
                each
                for each in self._histories.of(child.id)
                if isinstance(each.event, EntityCreated | EntityRestored)
            ]
            self._add_conflict(appearances[-1], ACCOUNT, can_force=False)

    def _require_members(self, wanted: dict[str, Any]) -> None:
        for name in MEMBER_FIELDS:
            if wanted.get(name) is not None and not is_member(self._loaded, UUID(wanted[name])):
                self._refusals.append(NotAMember(UUID(wanted[name])))

    def _later(self, target: TracedEvent) -> Iterator[TracedEvent]:
        """Later events of the entity that still count.

        Undone events and their undos do not count, nor do events that are undone with the target.
        """
        undone = self._histories.undone_of(target.stream_id)
        for each in self._histories.of(target.stream_id)[target.version :]:
            is_reverted = each.position in undone
            is_undo_of_later = (undone_position(each) or 0) > target.position
            if not is_reverted and not is_undo_of_later and each.position not in self._positions:
                yield each

    def _add_conflict(self, later: TracedEvent, name: str, *, can_force: bool = True) -> None:
        """Add a conflict with a later event; the last one of each field replaces earlier ones."""
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


def stage_plan(loaded: LoadedEntities, plan: UndoPlan) -> None:
    """Stage the events of the plan, each with metadata that names the event it undoes."""
    for step in plan.steps:
        loaded.stage_events(step.events, undo_metadata(step.target))


def undo_metadata(target: TracedEvent) -> dict[str, str]:
    """The metadata of an event that undoes the target."""
    undoes = {
        "undoes": target.metadata.get("commandId", ""),
        "undoesPosition": str(target.position),
    }
    return {**undoes, AS_ONE: "true"} if AS_ONE in target.metadata else undoes


def _changed_nothing(traced: TracedEvent) -> bool:
    """Whether the event only records a merge that took over no field."""
    return isinstance(traced.event, EntityMerged) and not traced.event.changes


def _changed_fields(event: EntityEvent, entity: Entity) -> set[str]:
    """The fields that the event changed, as conflicts name them."""
    if isinstance(event, EntityUpdated):
        return set(event.changes)
    if isinstance(event, EntityStatusChanged):
        return {str(entity.STATUS_FIELD)}
    is_move = getattr(event, "moved_to", None) or getattr(event, "moved_from", None)
    return {ACCOUNT if is_move else EXISTS}
