"""The life that every aggregate of the CRM shares: create, revise, delete, restore, change status.

The events below are the shapes; each aggregate's own file gives them their stored names (topics),
its fields, its transition table and its own rules. Decisions are public methods and may refuse;
evolution is private, holds no rule, and so reads everything that was ever recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import Aggregate, AggregateCreated, AggregateEvent

from domain.shared.claims import TimeClaim
from domain.shared.fields import CUSTOM, Fields, FieldValues
from domain.shared.refusals import (
    AccountUnavailable,
    IsDeleted,
    MergeRefused,
    OccurredTooEarly,
    TransitionRefused,
    WasMerged,
)

FieldChange = dict[str, Any]
"""`{"before": …, "after": …}`; a side without a value is null."""


class EntityEvent(AggregateEvent):
    """Something that happened to one entity.

    `timestamp` is when it occurred (an import may say so); the log says when it was recorded.
    `account_id` is the account that the entity hangs on, None for what hangs on none.
    """

    TOPIC: ClassVar[str]
    ACTION: ClassVar[str]
    """What the audit trail calls it."""
    IS_IRREVERSIBLE: ClassVar[bool] = False
    """It has left the house: no later event makes it as if it had not been."""

    OMITTED: ClassVar[frozenset[str]] = frozenset({"merged_into", "moved_to", "moved_from"})
    """FieldValues that are left out of what is stored where they are None."""

    account_id: UUID | None


class EntityCreated(AggregateCreated, EntityEvent):
    """It came to be, with these fields."""

    ACTION = "create"

    workspace_id: UUID
    fields: FieldValues

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_created(self)


class EntityUpdated(EntityEvent):
    """Fields changed: before and after of those and of nothing else, custom fields one by one."""

    ACTION = "update"

    changes: dict[str, FieldChange]

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_updated(self)


class EntityStep(EntityUpdated):
    """A step of its life that has a name of its own: what it changed, the status among it."""

    ACTION = "status_change"


class EntityStatusChanged(EntityEvent):
    """The status (an opportunity's stage) moved."""

    ACTION = "status_change"

    before: str
    after: str

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_status(self)


class EntityMerged(EntityUpdated):
    """It took over another of its kind: that one's id, and what it hung on by kind and number.

    The changes are those that were taken over. The other one's deletion names this one.
    """

    ACTION = "merge"

    other: UUID
    moved: dict[str, int]


class EntityDeleted(EntityEvent):
    """It was deleted when it had these fields; `deleted_with` is the account that took it along.

    `merged_into` is the one that took it over. `moved_to` is the account to which it goes: the very
    next event of its stream restores it there, `moved_from` here.
    """

    ACTION = "delete"

    fields: FieldValues
    deleted_with: UUID | None
    merged_into: UUID | None = None
    moved_to: UUID | None = None

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_deleted(self)


class EntityRestored(EntityEvent):
    """It is there again, with these fields; `created_at` is when it first came to be.

    It hangs on the account that the event names; `moved_from` is the one that it came from.
    """

    ACTION = "restore"

    fields: FieldValues
    created_at: str
    moved_from: UUID | None = field(default=None, kw_only=True)

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_restored(self)


class EntityRestoredDated(EntityRestored):
    """It is there again, with these fields; its status is as old as it was."""

    status_changed_at: str


class Recorded(Aggregate):
    """What has a stream of events in the log: entities, and the jobs that work on them."""

    TOPIC: ClassVar[str]
    KIND: ClassVar[str]
    PLURAL: ClassVar[str]


class Entity(Recorded):
    """Base of the CRM's aggregates. Its state is `values`: the fields by wire name, as recorded."""

    FIELDS: ClassVar[type[Fields]]
    STATUS_FIELD: ClassVar[str | None] = None
    TRANSITIONS: ClassVar[Mapping[str, frozenset[str]]] = {}
    STATUS_DATED: ClassVar[bool] = False
    """Whether it is shown when the status last changed; `Restored` is an `EntityRestoredDated`."""
    SEARCHED: ClassVar[tuple[str, ...]] = ("name",)
    """The fields in which lists search, by wire name."""
    REFERENCES: ClassVar[Mapping[str, str]] = {}
    """Fields that name another entity, by wire name, and the kind that it has to be."""
    CLAIMS_TIME: ClassVar[bool] = False
    """Whether some of these take up time of somebody's (`claim`)."""
    BELONGS_TO_ACCOUNT: ClassVar[bool] = False
    ACCOUNT_REQUIRED: ClassVar[bool] = False

    Created: ClassVar[type[EntityCreated]]  # type: ignore[assignment]
    Updated: ClassVar[type[EntityUpdated]]
    StatusChanged: ClassVar[type[EntityStatusChanged]]
    Deleted: ClassVar[type[EntityDeleted]]
    Restored: ClassVar[type[EntityRestored]]
    Merged: ClassVar[type[EntityMerged]]
    """Of kinds of which two can be merged; the others have none."""

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
        facts = cls.FIELDS.values(fields)
        cls.FIELDS.reject_read_only(facts, cls.FIELDS.kept())
        return cls._create(
            cls.Created,
            id=entity_id,
            timestamp=at,
            workspace_id=workspace_id,
            account_id=account_id,
            fields=facts,
        )

    def revise(self, fields: Mapping[str, Any], *, at: datetime) -> None:
        """Make the fields be these. Records what changed; nothing where nothing did.

        Raises `InvalidFields`, `IsDeleted`, `TransitionRefused`, `OccurredTooEarly`.
        """
        self.require_alive()
        changes = differences(self.values, self.FIELDS.values(fields))
        self.FIELDS.reject_read_only(changes, self.kept())
        self._require_moves(changes)
        self._record_changes(changes, at)

    def revert(self, fields: Mapping[str, Any], *, at: datetime) -> None:
        """Set these fields back to what they were, None where they were not set.

        Custom fields go by `customFields.<key>`. The table of transitions is not asked: it says how
        things go on, this takes back. What comes of it has to be valid today. Raises `IsDeleted`,
        `InvalidFields`, `OccurredTooEarly`.
        """
        self.require_alive()
        changes = {name: {"before": None, "after": value} for name, value in fields.items()}
        target = apply_changes(self.values, changes)
        self.FIELDS.values(target)
        self._record_changes(differences(self.values, target), at)

    def change_status(self, status: str, *, at: datetime) -> None:
        """Move to this status. Raises `InvalidFields`, `IsDeleted`, `TransitionRefused`."""
        assert self.STATUS_FIELD is not None, f"a {self.KIND} has no status"
        self.revise({**self.values, self.STATUS_FIELD: status}, at=at)

    def delete(
        self,
        *,
        at: datetime,
        deleted_with: UUID | None = None,
        merged_into: UUID | None = None,
    ) -> None:
        """Delete it; nothing is recorded where it is deleted already."""
        if not self.is_deleted:
            self._record(
                self.Deleted,
                at,
                fields=self.values,
                deleted_with=deleted_with,
                merged_into=merged_into,
            )

    def restore(self, *, at: datetime, account_id: UUID | None = None) -> None:
        """Bring it back as it was; nothing is recorded where it is there.

        On another account, where `account_id` says so. Raises `WasMerged`.
        """
        if self.merged_into is not None:
            raise WasMerged(self.KIND, self.id, self.merged_into)
        if self.is_deleted:
            self._return(at, account_id)

    def take_over(
        self, other: Self, fields: Mapping[str, Any], *, at: datetime, moved: dict[str, int]
    ) -> None:
        """Both become this one, with these fields; `moved` says what comes along, by kind.

        Raises `InvalidFields`, `IsDeleted`, `WasMerged`, `MergeRefused`, `TransitionRefused`.
        """
        self.require_alive()
        other.require_alive()
        self._require_mergeable(other)
        changes = differences(self.values, self.FIELDS.values(fields))
        status = changes.pop(self.STATUS_FIELD, None) if self.STATUS_FIELD else None
        if status:
            self._require_transition(status["before"], status["after"])
        other.delete(at=max(at, other.modified_on), merged_into=self.id)
        self._record(self.Merged, at, changes=changes, other=other.id, moved=moved)
        if status:
            self._record(self.StatusChanged, at, before=status["before"], after=status["after"])

    def separate(self, *, at: datetime) -> None:
        """Be there again by oneself, after a merge that is taken back."""
        if self.is_deleted:
            self._return(at)

    def leave(self, account_id: UUID, *, at: datetime) -> None:
        """Go from its account, to `arrive` at this one at once."""
        self.require_alive()
        self._record(self.Deleted, at, fields=self.values, deleted_with=None, moved_to=account_id)

    def arrive(self, account_id: UUID, *, at: datetime) -> None:
        """Be there again, at this account."""
        if self.is_deleted:
            self._return(at, account_id, moved_from=self.account_id)

    @property
    def status(self) -> str | None:
        """The status now, None for kinds without one."""
        return self.values.get(self.STATUS_FIELD) if self.STATUS_FIELD else None

    def kept(self) -> frozenset[str]:
        """The fields, by wire name, that only commands of its own change as it is now."""
        return self.FIELDS.kept()

    def claim(self) -> TimeClaim | None:
        """The time that it takes up, None where it takes none."""
        return None

    def require_alive(self) -> None:
        """Raises `IsDeleted` where it is deleted, `WasMerged` where it is so for another one."""
        if self.merged_into is not None:
            raise WasMerged(self.KIND, self.id, self.merged_into)
        if self.is_deleted:
            raise IsDeleted(self.KIND, self.id)

    def _require_mergeable(self, other: Self) -> None:
        if other.id == self.id:
            raise MergeRefused(self.KIND, self.id, other.id, "it is the same one")

    def _return(self, at: datetime, account_id: UUID | None = None, **facts: Any) -> None:
        account = account_id or self.account_id
        created_at = self.created_on.isoformat()
        if self.STATUS_DATED:
            facts["status_changed_at"] = self.status_changed_at.isoformat()
        self._record(self.Restored, at, account, fields=self.values, created_at=created_at, **facts)

    def _require_transition(self, before: str, after: str) -> None:
        allowed = self.TRANSITIONS.get(before, frozenset())
        if after not in allowed:
            raise TransitionRefused(self.KIND, self.id, before, after, sorted(allowed))

    def _require_moves(self, changes: Mapping[str, FieldChange]) -> None:
        if self.STATUS_FIELD is not None and self.STATUS_FIELD in changes:
            status = changes[self.STATUS_FIELD]
            self._require_transition(status["before"], status["after"])

    def _step(
        self, event: type[EntityStep], fields: Mapping[str, Any], at: datetime, **facts: Any
    ) -> None:
        """Set these fields, None takes one away, by an event of this name; nothing by no change.

        For what an aggregate decides by itself: fields set by commands are set so.
        """
        self.require_alive()
        wanted = {name: {"before": None, "after": value} for name, value in fields.items()}
        target = self.FIELDS.values(apply_changes(self.values, wanted))
        changes = differences(self.values, target)
        self._require_moves(changes)
        if changes:
            self._record(event, at, changes=changes, **facts)

    def _record_changes(self, changes: dict[str, FieldChange], at: datetime) -> None:
        status = changes.pop(self.STATUS_FIELD, None) if self.STATUS_FIELD else None
        if changes:
            self._record(self.Updated, at, changes=changes)
        if status:
            self._record(self.StatusChanged, at, before=status["before"], after=status["after"])

    def _record(
        self, event: type[EntityEvent], at: datetime, account_id: UUID | None = None, **facts: Any
    ) -> None:
        if at < self.modified_on:
            raise OccurredTooEarly(self.id, at, self.modified_on)
        account = account_id or self.account_id
        self.trigger_event(event, timestamp=at, account_id=account, **facts)

    # Evolution

    def _evolve_created(self, event: EntityCreated) -> None:
        self.workspace_id: UUID = event.workspace_id
        self.account_id: UUID | None = event.account_id
        self.values: FieldValues = event.fields
        self.status_changed_at: datetime = event.timestamp
        self.is_deleted: bool = False
        self.deleted_with: UUID | None = None
        self.merged_into: UUID | None = None

    def _evolve_updated(self, event: EntityUpdated) -> None:
        self.values = apply_changes(self.values, event.changes)
        if self.STATUS_FIELD in event.changes:
            self.status_changed_at = event.timestamp

    def _evolve_status(self, event: EntityStatusChanged) -> None:
        assert self.STATUS_FIELD is not None
        self.values = {**self.values, self.STATUS_FIELD: event.after}
        self.status_changed_at = event.timestamp

    def _evolve_deleted(self, event: EntityDeleted) -> None:
        self.is_deleted = True
        self.deleted_with = event.deleted_with
        self.merged_into = event.merged_into

    def _evolve_restored(self, event: EntityRestored) -> None:
        self.values = event.fields
        self.account_id = event.account_id
        self.is_deleted = False
        self.deleted_with = None
        self.merged_into = None


def differences(before: FieldValues, after: FieldValues) -> dict[str, FieldChange]:
    """Before and after of every field that differs; custom fields as `customFields.<key>`."""
    old, new = flat(before), flat(after)
    names = [*old, *(name for name in new if name not in old)]
    return {
        name: {"before": old.get(name), "after": new.get(name)}
        for name in names
        if not same(old.get(name), new.get(name))
    }


def apply_changes(facts: FieldValues, changes: Mapping[str, FieldChange]) -> FieldValues:
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


def flat(facts: FieldValues) -> FieldValues:
    """The facts with custom fields one by one, as `customFields.<key>`."""
    flat = {name: value for name, value in facts.items() if name != CUSTOM}
    flat.update((f"{CUSTOM}.{key}", value) for key, value in facts.get(CUSTOM, {}).items())
    return flat


def _is_custom(name: str) -> bool:
    return name.startswith(CUSTOM + ".")


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: in Python `True == 1`, on the wire it is not."""
    return type(one) is type(other) and one == other
