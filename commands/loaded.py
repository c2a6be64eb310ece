"""The entities that a command decides on: each is loaded once, and their events are appended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import TypeVar
from uuid import UUID

from eventsourcing.domain import CanMutateAggregate

from domain.shared.claims import TimeClaim
from domain.shared.entity import Entity
from domain.shared.refusals import NotFound, StaleVersion
from eventlog.store.log import EventLog, evolve

E = TypeVar("E", bound=Entity)

Event = CanMutateAggregate[UUID]

ReadEntities = Callable[[Collection[UUID]], Mapping[UUID, Entity]]
"""Read the current state of entities by id, deleted ones included. Unknown ids are left out."""

StagedEvent = tuple[Event, Mapping[str, str]]
"""An event, and metadata that is added to the scope's."""

NO_METADATA: Mapping[str, str] = MappingProxyType({})


class LoadedEntities:
    """The entities of one decision, within one `scoped` or `transaction` block of the log.

    An id always gives the same instance, so a decision sees what earlier decisions of the block
    have changed. `stage` accepts an entity's new events, and `append` records all accepted events
    in one call. A decision that was refused may leave events pending in the instances it changed:
    `discard` these, and the next use loads them again, with the events that were staged before.

    Account locks and children need a `transaction` block. With `is_preview` no lock is taken, and
    nothing can be appended. `read` replaces the log as the source of current states.
    """

    def __init__(
        self, log: EventLog, *, read: ReadEntities | None = None, is_preview: bool = False
    ) -> None:
        self._log = log
        self._read = read or partial(log.load_many, Entity)
        self._is_preview = is_preview
        self._entities: dict[UUID, Entity | None] = {}
        self._children: dict[UUID, list[UUID]] = {}
        self._staged: list[StagedEvent] = []
        self._staged_by_entity: dict[UUID, list[Event]] = {}
        self._claims: dict[UUID, TimeClaim | None] = {}

    def load(self, ids: Iterable[UUID]) -> None:
        """Load those of these entities that are not loaded yet, in one statement."""
        missing = {each for each in ids if each not in self._entities}
        if missing:
            found = self._read(missing)
            for entity_id in missing:
                self._keep(entity_id, found.get(entity_id))

    def find(self, kind: type[E], entity_id: UUID) -> E | None:
        """Return the entity, deleted or not; None if there is no entity of this kind and id."""
        self.load([entity_id])
        entity = self._entities[entity_id]
        return entity if isinstance(entity, kind) else None

    def get(self, kind: type[E], entity_id: UUID, expected_version: int | None = None) -> E:
        """Return the entity, deleted or not. Raises `NotFound`, `StaleVersion`."""
        entity = self.find(kind, entity_id)
        if entity is None:
            raise NotFound(kind.KIND, entity_id)
        if expected_version is not None and entity.version != expected_version:
            raise StaleVersion(entity_id, expected_version, entity.version)
        return entity

    def lock_accounts(self, *, shared: Iterable[UUID] = (), exclusive: Iterable[UUID] = ()) -> None:
        """Lock accounts until the end of the transaction, all of them in one statement.

        A shared lock keeps others from deleting the account together with its children, an
        exclusive one from adding children as well. Accounts that were loaded before are loaded
        again, because they may have changed before the lock was granted: lock before deciding.
        """
        exclusive_ids = set(exclusive)
        ids = {*shared, *exclusive_ids}
        if ids and not self._is_preview:
            self._log.lock_accounts(exclusive=exclusive_ids, shared=ids - exclusive_ids)
            for account_id in ids:
                self._children.pop(account_id, None)
            self.discard(ids)

    def load_children(self, account_ids: Iterable[UUID]) -> None:
        """Load the children of those of these accounts whose children are not loaded yet."""
        missing = {each for each in account_ids if each not in self._children}
        if missing:
            for account_id, children in self._log.children_of(missing).items():
                self._children[account_id] = [each.id for each in children]
                for child in children:
                    if self._entities.get(child.id) is None:
                        self._keep(child.id, child)

    def children_of(self, account_id: UUID) -> list[Entity]:
        """The children of the account in the log, deleted or not, in order of creation."""
        self.load_children([account_id])
        children = self._children[account_id]
        self.load(children)
        return [child for each in children if (child := self._entities[each]) is not None]

    def stage(self, *entities: Entity) -> None:
        """Accept the pending events of these entities, in this order. New entities are added."""
        for entity in entities:
            self._entities[entity.id] = entity
            self.stage_events(entity.collect_events())

    def stage_events(
        self, events: Iterable[Event], metadata: Mapping[str, str] = NO_METADATA
    ) -> None:
        """Accept events collected from loaded entities; add `metadata` to that of the scope."""
        for event in events:
            entity_id = event.originator_id
            self._staged.append((event, metadata))
            self._staged_by_entity.setdefault(entity_id, []).append(event)
            entity = self._entities[entity_id]
            if entity is not None and entity.CLAIMS_TIME:
                self._claims[entity_id] = entity.claim()

    def discard(self, ids: Iterable[UUID]) -> None:
        """Drop these instances, with the events that are pending in them."""
        for entity_id in ids:
            self._entities.pop(entity_id, None)

    def discard_all(self) -> None:
        """Drop all instances, with the events that are pending in them."""
        self._entities.clear()

    def take_staged(self) -> list[StagedEvent]:
        """Return the events that were staged since the last call, with their metadata.

        The caller appends them. Entities are still loaded with these events.
        """
        staged, self._staged = self._staged, []
        return staged

    def drop_staged(self) -> None:
        """Forget the events that were staged since `take_staged` was last called."""
        for event, _ in self._staged:
            self._staged_by_entity[event.originator_id].pop()
        self._staged = []

    @property
    def changed(self) -> list[Entity]:
        """The entities with staged events, in the order of their first staged event."""
        self.load(self._staged_by_entity)
        return [each for id_ in self._staged_by_entity if (each := self._entities[id_]) is not None]

    def is_changed(self, entity_id: UUID) -> bool:
        """Whether events of the entity are staged."""
        return entity_id in self._staged_by_entity

    def append(self) -> int:
        """Record the staged events in one call; return a log position that includes them.

        Without staged events it is the last position that the log has assigned. Raises the
        library's `IntegrityError` after a concurrent write, and `TimeTaken`.
        """
        assert not self._is_preview, "a preview records nothing"
        events = [event for event, _ in self._staged]
        extras = [metadata for _, metadata in self._staged]
        position = self._log.record(
            events, claims=self._claims, extras=extras if any(extras) else None
        )
        self._staged, self._staged_by_entity, self._claims = [], {}, {}
        return position or self._log.taken_position()

    def _keep(self, entity_id: UUID, entity: Entity | None) -> None:
        self._entities[entity_id] = evolve(entity, self._staged_by_entity.get(entity_id, ()))


def event_time(entity: Entity, now: datetime) -> datetime:
    """The time of the entity's next event: `now`, but not before its last event.

    Another machine, whose clock is ahead, may have recorded the last event.
    """
    return max(now, entity.modified_on)
