"""The life that every aggregate of the CRM shares: create, revise, delete, restore, change status.

The events below are the shapes; each aggregate's own file gives them their stored names (topics),
its fields, its transition table and its own rules. Decisions are public methods and may refuse;
evolution is private, holds no rule, and so reads everything that was ever recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import Aggregate, AggregateCreated, AggregateEvent

from domain.fields import CUSTOM, Facts, Fields
from domain.refusals import AccountUnavailable, IsDeleted, OccurredTooEarly, TransitionRefused

Change = dict[str, Any]
"""`{"before": …, "after": …}`; a side without a value is null."""


class EntityEvent(AggregateEvent):
    """Something that happened to one entity.

    `timestamp` is when it occurred (an import may say so); the log says when it was recorded.
    `account_id` is the account that the entity hangs on, None for what hangs on none.
    """

    TOPIC: ClassVar[str]
    IS_FINAL: ClassVar[bool] = False
    """It has left the house: no later event makes it as if it had not been."""

    account_id: UUID | None


class EntityCreated(AggregateCreated, EntityEvent):
    """It came to be, with these fields."""

    workspace_id: UUID
    fields: Facts

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_created(self)


class EntityUpdated(EntityEvent):
    """Fields changed: before and after of those and of nothing else, custom fields one by one."""

    changes: dict[str, Change]

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_updated(self)


class EntityStatusChanged(EntityEvent):
    """The status (an opportunity's stage) moved."""

    before: str
    after: str

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_status(self)


class EntityDeleted(EntityEvent):
    """It was deleted when it had these fields; `deleted_with` is the account that took it along."""

    fields: Facts
    deleted_with: UUID | None

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_deleted(self)


class EntityRestored(EntityEvent):
    """It is there again, with these fields; `created_at` is when it first came to be."""

    fields: Facts
    created_at: str

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_restored(self)


class Recorded(Aggregate):
    """What has a stream of events in the log: entities, and the jobs that work on them."""

    TOPIC: ClassVar[str]
    KIND: ClassVar[str]
    PLURAL: ClassVar[str]


class Entity(Recorded):
    """Base of the CRM's aggregates. Its state is `facts`: the fields by wire name, as recorded."""

    FIELDS: ClassVar[type[Fields]]
    STATUS_FIELD: ClassVar[str | None] = None
    TRANSITIONS: ClassVar[Mapping[str, frozenset[str]]] = {}
    BELONGS_TO_ACCOUNT: ClassVar[bool] = False
    ACCOUNT_REQUIRED: ClassVar[bool] = False

    Created: ClassVar[type[EntityCreated]]  # type: ignore[assignment]
    Updated: ClassVar[type[EntityUpdated]]
    StatusChanged: ClassVar[type[EntityStatusChanged]]
    Deleted: ClassVar[type[EntityDeleted]]
    Restored: ClassVar[type[EntityRestored]]

    # Decisions

    @classmethod
    def create(
        cls,
        entity_id: UUID,
        workspace_id: UUID,
        fields: Mapping[str, Any],
        *,
        at: datetime,
        account_id: UUID | None = None,
    ) -> Self:
        """A new one with these fields. Raises `InvalidFields`, `AccountUnavailable`."""
        if cls.ACCOUNT_REQUIRED and account_id is None:
            raise AccountUnavailable(UUID(int=0))
        if account_id is not None and not cls.BELONGS_TO_ACCOUNT:
            raise TypeError(f"a {cls.KIND} hangs on no account")
        return cls._create(
            cls.Created,
            id=entity_id,
            timestamp=at,
            workspace_id=workspace_id,
            account_id=account_id,
            fields=cls.FIELDS.facts(fields),
        )

    def revise(self, fields: Mapping[str, Any], *, at: datetime) -> None:
        """Make the fields be these. Records what changed; nothing where nothing did.

        Raises `InvalidFields`, `IsDeleted`, `TransitionRefused`, `OccurredTooEarly`.
        """
        self._require_alive()
        changes = differences(self.facts, self.FIELDS.facts(fields))
        if self.STATUS_FIELD in changes:
            status = changes[self.STATUS_FIELD]
            self._require_transition(status["before"], status["after"])
        self._record_changes(changes, at)

    def revert(self, fields: Mapping[str, Any], *, at: datetime) -> None:
        """Set these fields back to what they were, None where they were not set.

        Custom fields go by `customFields.<key>`. The table of transitions is not asked: it says how
        things go on, this takes back. What comes of it has to be valid today. Raises `IsDeleted`,
        `InvalidFields`, `OccurredTooEarly`.
        """
        self._require_alive()
        changes = {name: {"before": None, "after": value} for name, value in fields.items()}
        target = apply_changes(self.facts, changes)
        self.FIELDS.facts(target)
        self._record_changes(differences(self.facts, target), at)

    def change_status(self, status: str, *, at: datetime) -> None:
        """Move to this status. Raises `InvalidFields`, `IsDeleted`, `TransitionRefused`."""
        assert self.STATUS_FIELD is not None, f"a {self.KIND} has no status"
        self.revise({**self.facts, self.STATUS_FIELD: status}, at=at)

    def delete(self, *, at: datetime, deleted_with: UUID | None = None) -> None:
        """Delete it; nothing is recorded where it is deleted already."""
        if not self.is_deleted:
            self._record(self.Deleted, at, fields=self.facts, deleted_with=deleted_with)

    def restore(self, *, at: datetime) -> None:
        """Bring it back as it was; nothing is recorded where it is there."""
        if self.is_deleted:
            created_at = self.created_on.isoformat()
            self._record(self.Restored, at, fields=self.facts, created_at=created_at)

    @property
    def status(self) -> str | None:
        """The status now, None for kinds without one."""
        return self.facts.get(self.STATUS_FIELD) if self.STATUS_FIELD else None

    def _require_alive(self) -> None:
        if self.is_deleted:
            raise IsDeleted(self.KIND, self.id)

    def _require_transition(self, before: str, after: str) -> None:
        allowed = self.TRANSITIONS.get(before, frozenset())
        if after not in allowed:
            raise TransitionRefused(self.KIND, self.id, before, after, sorted(allowed))

    def _record_changes(self, changes: dict[str, Change], at: datetime) -> None:
        status = changes.pop(self.STATUS_FIELD, None) if self.STATUS_FIELD else None
        if changes:
            self._record(self.Updated, at, changes=changes)
        if status:
            self._record(self.StatusChanged, at, before=status["before"], after=status["after"])

    def _record(self, event: type[EntityEvent], at: datetime, **facts: Any) -> None:
        if at < self.modified_on:
            raise OccurredTooEarly(self.id, at, self.modified_on)
        self.trigger_event(event, timestamp=at, account_id=self.account_id, **facts)

    # Evolution

    def _evolve_created(self, event: EntityCreated) -> None:
        self.workspace_id: UUID = event.workspace_id
        self.account_id: UUID | None = event.account_id
        self.facts: Facts = event.fields
        self.is_deleted: bool = False
        self.deleted_with: UUID | None = None

    def _evolve_updated(self, event: EntityUpdated) -> None:
        self.facts = apply_changes(self.facts, event.changes)

    def _evolve_status(self, event: EntityStatusChanged) -> None:
        assert self.STATUS_FIELD is not None
        self.facts = {**self.facts, self.STATUS_FIELD: event.after}

    def _evolve_deleted(self, event: EntityDeleted) -> None:
        self.is_deleted = True
        self.deleted_with = event.deleted_with

    def _evolve_restored(self, event: EntityRestored) -> None:
        self.facts = event.fields
        self.is_deleted = False
        self.deleted_with = None


def differences(before: Facts, after: Facts) -> dict[str, Change]:
    """Before and after of every field that differs; custom fields as `customFields.<key>`."""
    old, new = flat(before), flat(after)
    names = [*old, *(name for name in new if name not in old)]
    return {
        name: {"before": old.get(name), "after": new.get(name)}
        for name in names
        if not same(old.get(name), new.get(name))
    }


def apply_changes(facts: Facts, changes: Mapping[str, Change]) -> Facts:
    """The facts with the after side of each change; a null after takes the field away."""
    result = dict(facts)
    custom = dict(facts.get(CUSTOM, {}))
    for name, change in changes.items():
        target, key = (custom, name[len(CUSTOM) + 1 :]) if _is_custom(name) else (result, name)
        if change["after"] is None:
            target.pop(key, None)
        else:
            target[key] = change["after"]
    result.pop(CUSTOM, None)
    return {**result, CUSTOM: custom} if custom else result


def flat(facts: Facts) -> Facts:
    """The facts with custom fields one by one, as `customFields.<key>`."""
    flat = {name: value for name, value in facts.items() if name != CUSTOM}
    flat.update((f"{CUSTOM}.{key}", value) for key, value in facts.get(CUSTOM, {}).items())
    return flat


def _is_custom(name: str) -> bool:
    return name.startswith(CUSTOM + ".")


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: in Python `True == 1`, on the wire it is not."""
    return type(one) is type(other) and one == other
