"""The refusals of the domain.

A refusal carries the data of the case as attributes, so that the code that reports it (HTTP, the
CLI, an import) needs no further query. `runtime/errors.py` maps refusals to error codes and HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

CONFLICTS_SHOWN_MAX = 5
"""Maximum number of conflicts named in the sentence; `conflicts` has all of them."""


class Refusal(Exception):
    """A command that the business rules do not allow. Nothing was recorded.

    Its text is the first line of the class's docstring, unless the class defines `__str__`.
    """

    def __str__(self) -> str:
        return (self.__doc__ or type(self).__name__).strip().splitlines()[0]


@dataclass(frozen=True)
class FieldError:
    """A field that is not valid: its path on the wire, the kind of fault, and a sentence."""

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
    """Too many entities belong to the account to move them at once."""

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
        if not self.allowed:
            return f"The {self.kind} is {self.before}, which is final; it cannot be {self.after}."
        allowed = ", ".join(self.allowed)
        return f"The {self.kind} is {self.before}; it can become {allowed}, not {self.after}."


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
    """The entity that a field refers to does not exist or is deleted."""

    field: str
    kind: str
    entity_id: UUID

    def __str__(self) -> str:
        return f"{self.field}: the {self.kind} does not exist in this workspace or is deleted."


@dataclass
class OccurredTooEarly(Refusal):
    """It cannot have occurred before the last recorded event."""

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
    """A later change that undo would overwrite, or that depends on what undo would remove.

    `field` is the wire name of a field, or `exists` if the entity was created, deleted or restored.
    `can_force` says whether undo overwrites the change if it is forced.
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
    """Later changes would be overwritten by undo."""

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
    """It has already been undone."""

    undone_position: int
    undone_by: str


@dataclass
class NotUndoable(Refusal):
    """This cannot be undone: it has had effects outside of Annals."""

    positions: list[int]


@dataclass
class PartOfAWhole(Refusal):
    """This is part of a command that can only be undone as a whole."""

    command_id: str


@dataclass
class NothingToUndo(Refusal):
    """There is no such change in this workspace."""

    asked: str


@dataclass
class TooMuchToUndo(Refusal):
    """These are too many changes to undo at once."""

    limit: int


@dataclass
class KeyRevoked(Refusal):
    """The API key is revoked; a revoked key cannot be restored."""

    entity_id: UUID


@dataclass
class KeyNotAccepted(Refusal):
    """The API key that was presented is not a valid admin key of this workspace."""


@dataclass
class StatusUnchanged(Refusal):
    """It already has this status."""

    kind: str
    entity_id: UUID
    current_status: str

    def __str__(self) -> str:
        return f"The {self.kind} is already {self.current_status}."


@dataclass
class AlreadyConverted(Refusal):
    """The lead has already been converted."""

    lead_id: UUID
    account_id: UUID
    contact_id: UUID | None
    opportunity_id: UUID | None


@dataclass(frozen=True)
class TakenTime:
    """An entity that has claimed the time, from `starts_at` to before `ends_at`."""

    entity_id: UUID
    starts_at: datetime
    ends_at: datetime


@dataclass
class TimeTaken(Refusal):
    """The member is not free at that time."""

    entity_id: UUID
    member_id: UUID
    taken: list[TakenTime]


@dataclass
class AlreadyConfirmed(Refusal):
    """The appointment has already been confirmed."""

    appointment_id: UUID
    confirmed_at: datetime | None
    confirmed_by: str | None
