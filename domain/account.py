"""Account (also called organization): an investor, a customer or a partner."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import ClassVar, Self

from eventsourcing.domain import AggregateEvent
from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from domain.shared.entity import (
    EntityCreated,
    EntityDeleted,
    EntityRestored,
    EntityStatusChanged,
    EntityUpdated,
)
from domain.shared.fields import Choice, Date, Fields, Line, Money, Name, fault_of
from domain.shared.merging import EntityMerged, MergeableEntity
from domain.shared.properties import optional, required
from domain.shared.refusals import MergeRefused


class AccountType(Choice):
    INVESTOR = "investor"
    CUSTOMER = "customer"
    PARTNER = "partner"


class AccountStatus(Choice):
    PROSPECT = "prospect"
    ACTIVE = "active"
    ON_HOLD = "on_hold"
    INACTIVE = "inactive"
    CHURNED = "churned"


class Priority(Choice):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    URGENT = "urgent"


TYPE_OF_FIELD = {
    "check_size": AccountType.INVESTOR,
    "deal_value": AccountType.CUSTOMER,
    "opportunity": AccountType.PARTNER,
}
"""Fields that only accounts of one type may have."""


class AccountFields(Fields):
    company: Name = Field(examples=["Acme Corporation"])
    type: AccountType
    status: AccountStatus = AccountStatus.PROSPECT
    priority: Priority = Priority.MEDIUM
    next_action: Line | None = Field(default=None, examples=["Send the term sheet"])
    next_action_date: Date | None = None
    check_size: Money | None = Field(default=None, description="Investors only.")
    deal_value: Money | None = Field(default=None, description="Customers only.")
    opportunity: Line | None = Field(default=None, description="Partners only.")

    @model_validator(mode="after")
    def _require_fields_of_the_type(self) -> Self:
        for name, type_ in TYPE_OF_FIELD.items():
            if getattr(self, name) is not None and self.type != type_:
                raise fault_of(to_camel(name), f"is only for accounts of type {type_.value}")
        return self


class Account(MergeableEntity):
    """An organization that the workspace deals with. Most other entities belong to an account.

    Decisions, and when they are refused:

    create, revise: a field is invalid or belongs to another type of account (`InvalidFields`).
    change_status: the status does not exist (`InvalidFields`); otherwise every change is allowed.
    merge: the two are the same account or differ in type (`MergeRefused`), one is deleted, or a
        field is invalid (`InvalidFields`).
    delete, undo_delete: never. Repeating one records nothing.
    restore: the account was merged into another one (`WasMerged`).
    revert: a field is no longer valid (`InvalidFields`). Used by undo.

    A deleted account refuses revise, change_status, merge and revert (`IsDeleted`; `WasMerged` if
    it was merged). A decision dated before the last event is refused (`OccurredTooEarly`).
    Commands also refuse an assignee who is not a member of the workspace (`NotAMember`), and to
    delete an account with open opportunities (`OpenOpportunities`).
    """

    TOPIC = "account"
    KIND = "account"
    PLURAL = "accounts"
    FIELDS = AccountFields
    IS_IMPORTABLE = True
    SEARCH_FIELDS = ("company",)
    STATUS_FIELD = "status"
    TRANSITIONS: ClassVar[Mapping[AccountStatus, frozenset[AccountStatus]]] = {
        status: frozenset(AccountStatus) - {status} for status in AccountStatus
    }

    company = required(str)
    type = required(str)
    status = required(str)
    priority = required(str)
    next_action = optional(str)
    next_action_date = optional(date.fromisoformat)
    check_size = optional(Decimal)
    deal_value = optional(Decimal)
    opportunity = optional(str)

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "account.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "account.updated"

    class StatusChanged(Event, EntityStatusChanged):
        TOPIC = "account.status_changed"

    class Deleted(Event, EntityDeleted):
        TOPIC = "account.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "account.restored"

    class Merged(Event, EntityMerged):
        TOPIC = "account.merged"

    def _require_mergeable(self, other: Self) -> None:
        super()._require_mergeable(other)
        if self.type != other.type:
            reason = f"one is {self.type}, the other {other.type}; change the type of one first"
            raise MergeRefused(self.KIND, self.id, other.id, reason)
