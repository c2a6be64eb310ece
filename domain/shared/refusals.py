"""What the domain refuses, by name.

Every refusal carries the facts of the case as attributes, so that whoever reports it (HTTP, the
CLI, an import) needs no second look. The mapping to codes and to HTTP is in `runtime/errors.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

CONFLICTS_SHOWN_MAX = 5
"""In the sentence; as facts they are all there."""


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
class WasMerged(Refusal):
    """It was merged into another one."""

    kind: str
    entity_id: UUID
    merged_into: UUID


@dataclass
class MergeRefused(Refusal):
    """These two cannot be merged."""

    kind: str
    entity_id: UUID
    other_id: UUID
    reason: str

    def __str__(self) -> str:
        return f"These two cannot be merged: {self.reason}."


@dataclass
class TooMuchToMerge(Refusal):
    """Too much hangs on the account to move at once."""

    other_id: UUID
    count: int
    limit: int


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
    merged_into: UUID | None = None


@dataclass
class NotAMember(Refusal):
    """The assignee is not a member of this workspace."""

    member_id: UUID


@dataclass
class ReferenceUnavailable(Refusal):
    """What a field refers to does not exist or is deleted."""

    field: str
    kind: str
    entity_id: UUID

    def __str__(self) -> str:
        return f"{self.field}: there is no such {self.kind} in this workspace, or it is deleted."


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


@dataclass(frozen=True)
class Conflict:
    """A later change that undoing would overwrite, or that it would leave without a hold.

    `field` is the field by its wire name, `exists` where the thing itself came or went. Where
    `can_force`, it is overwritten if that is asked for.
    """

    kind: str
    entity_id: UUID
    field: str
    position: int
    actor: dict[str, str]
    recorded_at: datetime
    can_force: bool


@dataclass
class UndoConflict(Refusal):
    """Something was changed since, which undoing would overwrite."""

    conflicts: list[Conflict]

    def __str__(self) -> str:
        shown = ", ".join(
            f"{each.kind} {each.field} by {each.actor.get('name') or each.actor.get('id')}"
            f" at {each.position}"
            for each in self.conflicts[:CONFLICTS_SHOWN_MAX]
        )
        more = len(self.conflicts) - CONFLICTS_SHOWN_MAX
        return f"Changed since: {shown}{f' and {more} more' if more > 0 else ''}."


@dataclass
class AlreadyUndone(Refusal):
    """It has been undone already."""

    undone_position: int
    undone_by: str


@dataclass
class NotUndoable(Refusal):
    """This cannot be undone: it has left the house."""

    positions: list[int]


@dataclass
class PartOfAWhole(Refusal):
    """This is part of a whole that is undone as one."""

    command_id: str


@dataclass
class NothingToUndo(Refusal):
    """There is no such change in this workspace."""

    asked: str


@dataclass
class TooMuchToUndo(Refusal):
    """That is too much to undo at once."""

    limit: int


@dataclass
class KeyRevoked(Refusal):
    """The API key is revoked and stays so."""

    entity_id: UUID


@dataclass
class StatusUnchanged(Refusal):
    """It has this status already."""

    kind: str
    entity_id: UUID
    status: str

    def __str__(self) -> str:
        return f"The {self.kind} is {self.status} already."


@dataclass
class AlreadyConverted(Refusal):
    """The lead was converted before."""

    lead_id: UUID
    account_id: UUID
    contact_id: UUID
    opportunity_id: UUID


@dataclass(frozen=True)
class TakenTime:
    """What has the time already, and from when until when."""

    entity_id: UUID
    starts_at: datetime
    ends_at: datetime


@dataclass
class TimeTaken(Refusal):
    """The member has something else at that time."""

    entity_id: UUID
    member_id: UUID
    taken: list[TakenTime]


@dataclass
class AlreadyConfirmed(Refusal):
    """The appointment was confirmed before."""

    appointment_id: UUID
    confirmed_at: str
    confirmed_by: str
