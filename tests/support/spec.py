"""A small language for specifications: `given(facts).when(decision).then(facts or refusal)`.

Pure: an entity is made of the given events alone. Besides what a specification says, `then` checks
that the events that were decided carry the entity, by themselves, to the state that it is in.
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
"""When the first of the given events occurred; the others follow, a minute apart."""
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
"""When decisions are made."""
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Fact:
    """An event without its envelope: what happened, to be compared with what should have."""

    event: type[EntityEvent]
    facts: dict[str, Any]


def fact(event: type[EntityEvent], **facts: Any) -> Fact:
    """This happened, with these facts."""
    return Fact(event, facts)


def created(kind: type[Entity], fields: FieldValues) -> Fact:
    """An entity of the kind came to be."""
    return fact(kind.Created, fields=fields)


def updated(kind: type[Entity], **changes: tuple[Any, Any]) -> Fact:
    """Fields changed, each from the first of the pair to the second; `a__b` stands for `a.b`."""
    return fact(
        kind.Updated,
        changes={
            name.replace("__", "."): {"before": before, "after": after}
            for name, (before, after) in changes.items()
        },
    )


def moved(kind: type[Entity], before: str, after: str) -> Fact:
    """The status moved."""
    return fact(kind.StatusChanged, before=before, after=after)


def deleted(kind: type[Entity], fields: FieldValues, *, along_with: UUID | None = None) -> Fact:
    """It was deleted, maybe along with its account."""
    return fact(kind.Deleted, fields=fields, deleted_with=along_with)


def restored(kind: type[Entity], fields: FieldValues) -> Fact:
    """It was restored; when it first came to be stays known, and since when its status is so."""
    dated = {"status_changed_at": DAWN.isoformat()} if kind.HAS_STATUS_DATE else {}
    return fact(kind.Restored, fields=fields, created_at=DAWN.isoformat(), **dated)


class Given(Generic[E]):
    """What has happened to one entity."""

    def __init__(self, kind: type[E], facts: Sequence[Fact]) -> None:
        self._kind = kind
        self._events = [_event(kind, given, number) for number, given in enumerate(facts, 1)]

    @property
    def entity(self) -> E:
        """The entity that the given events make. Each call makes another."""
        entity = fold(self._events)
        assert isinstance(entity, self._kind)
        return entity

    def when(self, decide: Callable[[E], object]) -> Outcome:
        """Somebody decides."""
        entity = self.entity
        try:
            decide(entity)
        except Refusal as refusal:
            return Outcome(self._events, entity, refusal)
        return Outcome(self._events, entity, None)


class Outcome:
    """What came of a decision."""

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

    def then(self, *expected: Fact | Refusal) -> None:
        """Exactly these facts were recorded, or it was refused like this and nothing was."""
        if len(expected) == 1 and isinstance(expected[0], Refusal):
            assert self._refusal == expected[0]
            assert not self._events
            return
        assert self._refusal is None, f"refused: {self._refusal}"
        recorded = [_fact(event) for event in self._events]
        assert recorded == list(expected)
        assert _wire(recorded) == _wire(expected), "equal, but not on the wire"
        replayed = fold([*self._before, *self._events])
        self.entity.collect_events()
        assert replayed == self.entity

    def then_nothing(self) -> None:
        """It was accepted, and there was nothing to record."""
        self.then()

    def then_invalid(self, *fields: str) -> None:
        """It was refused for exactly these fields, all of them named at once."""
        assert isinstance(self._refusal, InvalidFields), self._refusal
        assert sorted(error.field for error in self._refusal.errors) == sorted(fields)
        assert not self._events


def given(kind: type[E], *facts: Fact) -> Given[E]:
    """These facts were recorded of an entity of this kind."""
    return Given(kind, facts)


def when_created(
    kind: type[Entity],
    fields: dict[str, Any],
    *,
    account_id: UUID | None = ACCOUNT,
    at: datetime = NOON,
) -> Outcome:
    """Nothing has happened, and somebody creates one."""
    account = account_id if kind.BELONGS_TO_ACCOUNT else None
    try:
        entity = kind.create(ID, WORKSPACE, fields, at=at, account_id=account)
    except Refusal as refusal:
        return Outcome([], None, refusal)
    return Outcome([], entity, None)


def fold(events: Iterable[EntityEvent]) -> Entity:
    """The entity that these events make."""
    entity: Any = None
    for event in events:
        entity = event.mutate(entity)
    assert isinstance(entity, Entity)
    return entity


def _event(kind: type[Entity], given: Fact, version: int) -> EntityEvent:
    envelope: dict[str, Any] = {
        "originator_id": ID,
        "originator_version": version,
        "timestamp": DAWN + (version - 1) * MINUTE,
        "account_id": ACCOUNT if kind.BELONGS_TO_ACCOUNT else None,
    }
    if issubclass(given.event, EntityCreated):
        envelope |= {"originator_topic": kind.TOPIC, "workspace_id": WORKSPACE}
    return given.event(**envelope, **given.facts)


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


def _fact(event: EntityEvent) -> Fact:
    facts = {
        name: value
        for name, value in vars(event).items()
        if name not in _ENVELOPE and not (value is None and name in event.OMITTED_IF_NONE)
    }
    return Fact(type(event), facts)


def _wire(facts: Iterable[Fact | Refusal]) -> list[Any]:
    """As it goes out, with keys in order: True is not 1 there."""
    return [
        json.dumps(each.facts, sort_keys=True, default=str)
        for each in facts
        if isinstance(each, Fact)
    ]
