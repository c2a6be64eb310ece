"""Account (also called organization): an investor, a customer or a partner."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Self

from eventsourcing.domain import AggregateEvent
from pydantic import Field, model_validator

from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityMerged,
    EntityRestored,
    EntityStatusChanged,
    EntityUpdated,
)
from domain.shared.fields import Date, Fields, Line, Money, Name
from domain.shared.refusals import MergeRefused


class AccountType(StrEnum):
    INVESTOR = "investor"
    CUSTOMER = "customer"
    PARTNER = "partner"


class AccountStatus(StrEnum):
    PROSPECT = "prospect"
    ACTIVE = "active"
    ON_HOLD = "on_hold"
    INACTIVE = "inactive"
    CHURNED = "churned"


class Priority(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    URGENT = "urgent"


ONLY_FOR = {
    "check_size": AccountType.INVESTOR,
    "deal_value": AccountType.CUSTOMER,
    "opportunity": AccountType.PARTNER,
}


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
    def _fields_of_the_type(self) -> Self:
        for name, type_ in ONLY_FOR.items():
            if getattr(self, name) is not None and self.type != type_:
                alias = type(self).model_fields[name].alias
                raise ValueError(f"{alias} is for accounts of type {type_.value} only")
        return self


class Account(Entity):
    """An organization that the workspace deals with; everything else hangs on one."""

    TOPIC = "account"
    KIND = "account"
    PLURAL = "accounts"
    FIELDS = AccountFields
    SEARCHED = ("company",)
    STATUS_FIELD = "status"
    TRANSITIONS: ClassVar[Any] = {
        status: frozenset(AccountStatus) - {status} for status in AccountStatus
    }

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
        if self.values["type"] != other.values["type"]:
            raise MergeRefused(
                self.KIND,
                self.id,
                other.id,
                f"one is {self.values['type']}, the other"
                f" {other.values['type']}; change the type of one first",
            )
