"""The base of the CRM's aggregates: create, revise, change status, delete, restore, move.

Each aggregate's own file gives the events below their stored names (topics) and adds its fields,
transitions and rules. Decisions are public methods and may refuse. Evolution is private and holds
no rule, so that everything that was ever recorded can be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import Aggregate, AggregateCreated, AggregateEvent
from eventsourcing.utils import resolve_topic

from domain.shared.changes import FieldChange, apply_changes, find_changes
from domain.shared.claims import TimeClaim
from domain.shared.fields import SET_BY_COMMAND_FAULT, Fields, FieldValues
from domain.shared.properties import optional
from domain.shared.refusals import (
    AccountUnavailable,
    FieldError,
    InvalidFields,
    IsDeleted,
    OccurredTooEarly,
    TransitionRefused,
    WasMerged,
)


class EntityEvent(AggregateEvent):
    """Something that happened to one entity.

    `timestamp` is when the event occurred, which an import may date back; the log adds when it was
    recorded. `account_id` is the account to which the entity belongs, None if it belongs to none.
    """

    TOPIC: ClassVar[str]
    ACTION: ClassVar[str]
    """The name of the action in the audit trail."""
    IS_IRREVERSIBLE: ClassVar[bool] = False
    """Whether undo is refused, because the effect reached the outside world."""

    OMITTED_IF_NONE: ClassVar[frozenset[str]] = frozenset({"merged_into", "moved_to", "moved_from"})
    """Attributes that are stored only if they have a value."""

    account_id: UUID | None


class EntityCreated(AggregateCreated, EntityEvent):
    """The entity was created with these fields."""

    ACTION = "create"

    workspace_id: UUID
    fields: FieldValues

    def mutate(self, aggregate: Any) -> Any:
        """The new entity. The library's method does the same in three times the time.

        It would look for attributes of the event among the parameters of two constructors.
        """
        assert aggregate is None
        kind: type[Entity] = resolve_topic(self.originator_topic)
        entity = kind.__new__(kind)
        entity.__base_init__(self.originator_id, self.originator_version, self.timestamp)
        self.apply(entity)
        return entity

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_created(self)


class EntityUpdated(EntityEvent):
    """Fields changed: before and after of each changed field, custom fields one by one."""

    ACTION = "update"

    changes: dict[str, FieldChange]

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_updated(self)


class EntityStep(EntityUpdated):
    """A named step of the entity's lifecycle, with the fields that it changed."""

    ACTION = "status_change"


class EntityStatusChanged(EntityEvent):
    """The status (an opportunity's stage) changed."""

    ACTION = "status_change"

    before: str
    after: str

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_status(self)


class EntityDeleted(EntityEvent):
    """The entity was deleted with these fields; `deleted_with` is the account deleted with it.

    `merged_into` is the entity into which it was merged. `moved_to` is the account to which it
    moves: the next event of the stream restores it there, with `moved_from` for this account.
    """

    ACTION = "delete"

    fields: FieldValues
    deleted_with: UUID | None
    merged_into: UUID | None = None
    moved_to: UUID | None = None

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_deleted(self)


class EntityRestored(EntityEvent):
    """The entity was restored with these fields; `created_at` is when it was first created.

    It belongs to the account that the event names; `moved_from` is the account it moved from.
    """

    ACTION = "restore"

    fields: FieldValues
    created_at: str
    moved_from: UUID | None = field(default=None, kw_only=True)

    def apply(self, aggregate: Entity) -> None:
        aggregate._evolve_restored(self)


class EntityRestoredWithStatusDate(EntityRestored):
    """The entity was restored with these fields; `status_changed_at` keeps its old value."""

    status_changed_at: str


class RecordedAggregate(Aggregate):
    """An aggregate with a stream of events in the log: an entity or a job."""

    TOPIC: ClassVar[str]
    KIND: ClassVar[str]
    PLURAL: ClassVar[str]


class Entity(RecordedAggregate):
    """Base of the CRM's aggregates. Its state is `values`: the fields by wire name, as recorded.

    In every decision, `at` is when it occurred. A decision that changes nothing records nothing.
    """

    FIELDS: ClassVar[type[Fields]]
    STATUS_FIELD: ClassVar[str | None] = None
    TRANSITIONS: ClassVar[Mapping[Any, frozenset[str]]] = {}
    """The statuses that may follow each status. A status without an entry is final.

    Kinds narrow it to their own enum, as `Mapping[LeadStatus, frozenset[LeadStatus]]`.
    """
    HAS_STATUS_DATE: ClassVar[bool] = False
    """Whether clients see `status_changed_at`. Then `Restored` is an
    `EntityRestoredWithStatusDate`."""
    SEARCH_FIELDS: ClassVar[tuple[str, ...]] = ("name",)
    """The fields that lists search, by wire name."""
    REFERENCES: ClassVar[Mapping[str, str]] = {}
    """Fields that name another entity, by wire name, and the kind of that entity."""
    CLAIMS_TIME: ClassVar[bool] = False
    """Whether entities of this kind may claim a member's time; see `claim`."""
    BELONGS_TO_ACCOUNT: ClassVar[bool] = False
    ACCOUNT_REQUIRED: ClassVar[bool] = False
    IS_IMPORTABLE: ClassVar[bool] = False
    """Whether rows of a file may become entities of this kind. Not if a command has to check more
    than the entity itself: a text message is only created by the command that sends it."""
    STATUSES_OF_COMMANDS: ClassVar[frozenset[str]] = frozenset()
    """The statuses in which no entity is created, because the command that sets one also sets
    read-only fields: who confirmed it, when it was sent."""

    Created: ClassVar[type[EntityCreated]]  # type: ignore[assignment]
    Updated: ClassVar[type[EntityUpdated]]
    StatusChanged: ClassVar[type[EntityStatusChanged]]
    Deleted: ClassVar[type[EntityDeleted]]
    Restored: ClassVar[type[EntityRestored]]

    assigned_to = optional(UUID)
    custom_fields = optional(dict[str, Any])

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
        """A new entity with these fields. Raises `InvalidFields`, `AccountUnavailable`."""
        if cls.ACCOUNT_REQUIRED and account_id is None:
            raise AccountUnavailable(UUID(int=0))
        if account_id is not None and not cls.BELONGS_TO_ACCOUNT:
            raise TypeError(f"a {cls.KIND} belongs to no account")
        values = cls.FIELDS.validated(fields)
        cls.FIELDS.reject_read_only(values, cls.FIELDS.read_only())
        cls._require_initial_status(values)
        return cls._create(
            cls.Created,
            id=entity_id,
            timestamp=at,
            workspace_id=workspace_id,
            account_id=account_id,
            fields=values,
        )

    def revise(self, fields: Mapping[str, Any], *, at: datetime) -> None:
        """Replace all fields by these; record those that changed.

        Raises `IsDeleted`, `InvalidFields`, `TransitionRefused`, `OccurredTooEarly`.
        """
        self.require_not_deleted()
        changes = find_changes(self.values, self.FIELDS.validated(fields))
        self.FIELDS.reject_read_only(changes, self.read_only())
        self._require_allowed_status(changes)
        self._record_changes(changes, at)

    def revert(self, fields: Mapping[str, Any], *, at: datetime) -> None:
        """Set fields back to these former values, None for a field that had no value. Used by undo.

        Custom fields are named `customFields.<key>`. `TRANSITIONS` does not apply, but the result
        has to be valid today. Raises `IsDeleted`, `InvalidFields`, `OccurredTooEarly`.
        """
        self.require_not_deleted()
        target = apply_changes(self.values, _set_to(fields))
        self.FIELDS.validated(target)
        self._record_changes(find_changes(self.values, target), at)

    def change_status(self, status: str, *, at: datetime) -> None:
        """Set the status and nothing else. Raises as `revise`."""
        assert self.STATUS_FIELD is not None, f"a {self.KIND} has no status"
        self.revise({**self.values, self.STATUS_FIELD: status}, at=at)

    def delete(
        self,
        *,
        at: datetime,
        deleted_with: UUID | None = None,
        merged_into: UUID | None = None,
    ) -> None:
        """Delete the entity, unless it is deleted already. Raises `OccurredTooEarly`."""
        if not self.is_deleted:
            self._record(
                self.Deleted,
                at,
                fields=self.values,
                deleted_with=deleted_with,
                merged_into=merged_into,
            )

    def restore(self, *, at: datetime, account_id: UUID | None = None) -> None:
        """Restore a deleted entity as it was, under another account if `account_id` is given.

        Raises `WasMerged`, `OccurredTooEarly`.
        """
        if self.merged_into is not None:
            raise WasMerged(self.KIND, self.id, self.merged_into)
        if self.is_deleted:
            self._record_restored(at, account_id)

    def undo_delete(self, *, at: datetime) -> None:
        """Restore a deleted entity, even if merged. Used by undo. Raises `OccurredTooEarly`."""
        if self.is_deleted:
            self._record_restored(at)

    def begin_move(self, account_id: UUID, *, at: datetime) -> None:
        """Leave the entity's account for this one; `complete_move` has to follow at once.

        Raises `IsDeleted`, `OccurredTooEarly`.
        """
        self.require_not_deleted()
        self._record(self.Deleted, at, fields=self.values, deleted_with=None, moved_to=account_id)

    def complete_move(self, account_id: UUID, *, at: datetime) -> None:
        """Restore the entity under this account, after `begin_move`. Raises `OccurredTooEarly`."""
        if self.is_deleted:
            self._record_restored(at, account_id, moved_from=self.account_id)

    # Queries

    @property
    def status(self) -> str | None:
        """The status now, None for kinds without one."""
        return self.values.get(self.STATUS_FIELD) if self.STATUS_FIELD else None

    def read_only(self) -> frozenset[str]:
        """The fields, by wire name, that `revise` may not change in the entity's present state."""
        return self.FIELDS.read_only()

    def claim(self) -> TimeClaim | None:
        """The time that the entity claims now, if any."""
        return None

    def require_not_deleted(self) -> None:
        """Raise `WasMerged` for a merged entity, `IsDeleted` for any other deleted one."""
        if self.merged_into is not None:
            raise WasMerged(self.KIND, self.id, self.merged_into)
        if self.is_deleted:
            raise IsDeleted(self.KIND, self.id)

    # What decisions share

    @classmethod
    def _require_initial_status(cls, values: FieldValues) -> None:
        status = values.get(cls.STATUS_FIELD) if cls.STATUS_FIELD else None
        if status in cls.STATUSES_OF_COMMANDS:
            assert cls.STATUS_FIELD is not None
            message = f"{status} can only be set by a command, after the {cls.KIND} was created"
            raise InvalidFields([FieldError(cls.STATUS_FIELD, SET_BY_COMMAND_FAULT, message)])

    def _require_transition(self, before: str, after: str) -> None:
        allowed = self.TRANSITIONS.get(before, frozenset())
        if after not in allowed:
            raise TransitionRefused(self.KIND, self.id, before, after, sorted(allowed))

    def _require_allowed_status(self, changes: Mapping[str, FieldChange]) -> None:
        if self.STATUS_FIELD is not None and self.STATUS_FIELD in changes:
            status = changes[self.STATUS_FIELD]
            self._require_transition(status["before"], status["after"])

    def _record_step(
        self, event: type[EntityStep], fields: Mapping[str, Any], at: datetime, **data: Any
    ) -> None:
        """Set these fields, None to remove one, by an event of this type.

        Read-only fields may be among them. Raises as `revise`.
        """
        self.require_not_deleted()
        target = self.FIELDS.validated(apply_changes(self.values, _set_to(fields)))
        changes = find_changes(self.values, target)
        self._require_allowed_status(changes)
        if changes:
            self._record(event, at, changes=changes, **data)

    def _record_changes(self, changes: dict[str, FieldChange], at: datetime) -> None:
        status = self._pop_status(changes)
        if changes:
            self._record(self.Updated, at, changes=changes)
        if status:
            self._record_status_changed(status, at)

    def _record_status_changed(self, status: FieldChange, at: datetime) -> None:
        self._record(self.StatusChanged, at, before=status["before"], after=status["after"])

    def _pop_status(self, changes: dict[str, FieldChange]) -> FieldChange | None:
        """Remove the change of the status from `changes` and return it: it has its own event."""
        return changes.pop(self.STATUS_FIELD, None) if self.STATUS_FIELD else None

    def _record_restored(self, at: datetime, account_id: UUID | None = None, **data: Any) -> None:
        if self.HAS_STATUS_DATE:
            data["status_changed_at"] = self.status_changed_at.isoformat()
        created_at = self.created_on.isoformat()
        self._record(
            self.Restored, at, account_id, fields=self.values, created_at=created_at, **data
        )

    def _record(
        self, event: type[EntityEvent], at: datetime, account_id: UUID | None = None, **data: Any
    ) -> None:
        if at < self.modified_on:
            raise OccurredTooEarly(self.id, at, self.modified_on)
        account_id = account_id or self.account_id
        self.trigger_event(event, timestamp=at, account_id=account_id, **data)

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


def _set_to(fields: Mapping[str, Any]) -> dict[str, FieldChange]:
    """Changes that set each field to its value, whatever it was before."""
    return {name: {"before": None, "after": value} for name, value in fields.items()}
