"""Given, when, then for aggregates: `given(kind, events).when(decision).then(events or refusal)`.

The entity is built from the given events alone. Besides what a specification says, `then` checks
that replaying all events leads to the state that the decision left the entity in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

from domain.shared.entity import Entity, EntityCreated, EntityEvent
from domain.shared.fields import FieldValues
from domain.shared.refusals import InvalidFields, Refusal

E = TypeVar("E", bound=Entity)

ID = UUID(int=1)
WORKSPACE = UUID(int=2)
ACCOUNT = UUID(int=3)
ADA = "00000000-0000-0000-0000-00000000000a"

DAWN = datetime(2026, 1, 31, 6, tzinfo=UTC)
"""When the first of the given events occurred; the others follow at intervals of a minute."""
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
"""When decisions are made."""
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class EventData:
    """An event without its envelope, so that a given or recorded event can be compared."""

    event: type[EntityEvent]
    data: dict[str, Any]


def occurred(event: type[EntityEvent], **data: Any) -> EventData:
    """An event of this type with this data."""
    return EventData(event, data)


def created(kind: type[Entity], fields: FieldValues) -> EventData:
    """An entity of the kind was created."""
    return occurred(kind.Created, fields=fields)


def updated(kind: type[Entity], **changes: tuple[Any, Any]) -> EventData:
    """Fields changed, each from the first of the pair to the second; `a__b` stands for `a.b`."""
    return occurred(kind.Updated, changes=changes_of(changes))


def status_changed(kind: type[Entity], before: str, after: str) -> EventData:
    """The status changed."""
    return occurred(kind.StatusChanged, before=before, after=after)


def deleted(
    kind: type[Entity], fields: FieldValues, *, along_with: UUID | None = None
) -> EventData:
    """The entity was deleted, perhaps along with its account."""
    return occurred(kind.Deleted, fields=fields, deleted_with=along_with)


def restored(kind: type[Entity], fields: FieldValues) -> EventData:
    """The entity was restored; the dates of its creation and of its status stay."""
    dated = {"status_changed_at": DAWN.isoformat()} if kind.HAS_STATUS_DATE else {}
    return occurred(kind.Restored, fields=fields, created_at=DAWN.isoformat(), **dated)


def changes_of(changes: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Pairs of before and after in the form that events have; `a__b` stands for `a.b`."""
    return {
        name.replace("__", "."): {"before": before, "after": after}
        for name, (before, after) in changes.items()
    }


class Given(Generic[E]):
    """The history of one entity."""

    def __init__(self, kind: type[E], history: Sequence[EventData]) -> None:
        self._kind = kind
        self._events = [_event(kind, each, version) for version, each in enumerate(history, 1)]

    @property
    def entity(self) -> E:
        """A new entity, built from the given events."""
        entity = fold(self._events)
        assert isinstance(entity, self._kind)
        return entity

    def when(self, decide: Callable[[E], object]) -> Outcome:
        """Make this decision on a new entity."""
        entity = self.entity
        try:
            decide(entity)
        except Refusal as refusal:
            return Outcome(self._events, entity, refusal)
        return Outcome(self._events, entity, None)


class Outcome:
    """The outcome of a decision: recorded events or a refusal."""

    def __init__(
        self, before: list[EntityEvent], entity: Entity | None, refusal: Refusal | None
    ) -> None:
        self._before = before
        self._entity = entity
        self._refusal = refusal
        self._events: list[Any] = list(entity.pending_events) if entity else []

    @property
    def entity(self) -> Entity:
        """The entity after the decision."""
        assert self._entity is not None, f"refused: {self._refusal}"
        return self._entity

    def then(self, *expected: EventData | Refusal) -> None:
        """Assert that exactly these events were recorded, or nothing because of this refusal."""
        if len(expected) == 1 and isinstance(expected[0], Refusal):
            assert self._refusal == expected[0]
            assert not self._events
            return
        assert self._refusal is None, f"refused: {self._refusal}"
        recorded = [_data_of(event) for event in self._events]
        assert recorded == list(expected)
        assert _as_json(recorded) == _as_json(expected), "equal in Python, but not in JSON"
        replayed = fold([*self._before, *self._events])
        self.entity.collect_events()
        assert replayed == self.entity

    def then_nothing(self) -> None:
        """Assert that the decision was accepted and recorded nothing."""
        self.then()

    def then_invalid(self, *fields: str) -> None:
        """Assert that the decision was refused with a fault for each of these fields, no other."""
        assert isinstance(self._refusal, InvalidFields), self._refusal
        assert sorted(error.field for error in self._refusal.errors) == sorted(fields)
        assert not self._events


def given(kind: type[E], *history: EventData) -> Given[E]:
    """An entity of this kind with this history."""
    return Given(kind, history)


def when_created(
    kind: type[Entity],
    fields: dict[str, Any],
    *,
    account_id: UUID | None = ACCOUNT,
    at: datetime = NOON,
) -> Outcome:
    """Create an entity of this kind."""
    account = account_id if kind.BELONGS_TO_ACCOUNT else None
    try:
        entity = kind.create(ID, WORKSPACE, fields, at=at, account_id=account)
    except Refusal as refusal:
        return Outcome([], None, refusal)
    return Outcome([], entity, None)


def fold(events: Iterable[EntityEvent]) -> Entity:
    """The entity that results from these events."""
    entity: Any = None
    for event in events:
        entity = event.mutate(entity)
    assert isinstance(entity, Entity)
    return entity


def _event(kind: type[Entity], given: EventData, version: int) -> EntityEvent:
    envelope: dict[str, Any] = {
        "originator_id": ID,
        "originator_version": version,
        "timestamp": DAWN + (version - 1) * MINUTE,
        "account_id": ACCOUNT if kind.BELONGS_TO_ACCOUNT else None,
    }
    if issubclass(given.event, EntityCreated):
        envelope |= {"originator_topic": kind.TOPIC, "workspace_id": WORKSPACE}
    return given.event(**envelope, **given.data)


_ENVELOPE = frozenset(
    {
        "originator_id",
        "originator_topic",
        "originator_version",
        "timestamp",
        "account_id",
        "workspace_id",
    }
)


def _data_of(event: EntityEvent) -> EventData:
    data = {
        name: value
        for name, value in vars(event).items()
        if name not in _ENVELOPE and not (value is None and name in event.OMITTED_IF_NONE)
    }
    return EventData(type(event), data)


def _as_json(events: Iterable[EventData | Refusal]) -> list[Any]:
    """The data as JSON, in which True and 1 differ; members in alphabetical order."""
    return [
        json.dumps(each.data, sort_keys=True, default=str)
        for each in events
        if isinstance(each, EventData)
    ]
