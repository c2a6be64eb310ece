"""What the domain refuses, by name.

Every refusal carries the facts of the case as attributes, so that whoever reports it (HTTP, the
CLI, an import) needs no second look. The mapping to codes and to HTTP is in `api/errors.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


class Refusal(Exception):
    """A command that the business rules do not allow. Nothing was recorded."""

    def __str__(self) -> str:
        return (self.__doc__ or type(self).__name__).strip().splitlines()[0]


@dataclass(frozen=True)
class FieldError:
    """One field that cannot be accepted: its path on the wire, a kind of fault, and a sentence."""

    field: str
    kind: str
    message: str


@dataclass
class InvalidFields(Refusal):
    """Some fields are not valid."""

    errors: list[FieldError]

    def __str__(self) -> str:
        return "; ".join(f"{error.field}: {error.message}" for error in self.errors)


@dataclass
class NotFound(Refusal):
    """There is no such thing in this workspace."""

    kind: str
    entity_id: UUID


@dataclass
class IsDeleted(Refusal):
    """It is deleted; restore it first."""

    kind: str
    entity_id: UUID


@dataclass
class TransitionRefused(Refusal):
    """The status cannot change in this way."""

    kind: str
    entity_id: UUID
    before: str
    after: str
    allowed: list[str]

    def __str__(self) -> str:
        allowed = ", ".join(self.allowed) or "nothing"
        return f"A {self.kind} that is {self.before} can become {allowed}, not {self.after}."


@dataclass
class OpenOpportunities(Refusal):
    """Cannot delete an organization with active opportunities."""

    account_id: UUID
    opportunity_ids: list[UUID]


@dataclass
class AccountUnavailable(Refusal):
    """The account that this belongs to does not exist or is deleted."""

    account_id: UUID


@dataclass
class NotAMember(Refusal):
    """The assignee is not a member of this workspace."""

    member_id: UUID


@dataclass
class OccurredTooEarly(Refusal):
    """It cannot have occurred before what is already recorded."""

    entity_id: UUID
    occurred_at: datetime
    last_occurred_at: datetime


@dataclass
class StaleVersion(Refusal):
    """It has changed since the version that the command was based on."""

    entity_id: UUID
    expected: int
    actual: int


@dataclass
class KeyRevoked(Refusal):
    """The API key is revoked and stays so."""

    entity_id: UUID
