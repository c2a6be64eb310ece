"""Appointment: a booking of a member's time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import AggregateEvent
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from domain.shared.changes import find_changes
from domain.shared.claims import TimeClaim
from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityRestored,
    EntityStatusChanged,
    EntityStep,
    EntityUpdated,
)
from domain.shared.fields import (
    READ_ONLY,
    Choice,
    Fields,
    FieldValues,
    Instant,
    Line,
    Name,
    Text,
    fault_of,
)
from domain.shared.properties import optional, required
from domain.shared.refusals import AlreadyConfirmed

DURATION_MAX_DAYS = 7
DURATION_MAX_MINUTES = DURATION_MAX_DAYS * 24 * 60


class AppointmentStatus(Choice):
    SCHEDULED = "scheduled"
    CONFIRMED = "confirmed"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    NO_SHOW = "no_show"


OPEN_STATUSES = frozenset({AppointmentStatus.SCHEDULED, AppointmentStatus.CONFIRMED})
CLAIMING_STATUSES = OPEN_STATUSES | {AppointmentStatus.COMPLETED}

INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


class AppointmentFields(Fields):
    title: Name = Field(examples=["First call"])
    member_id: UUID = Field(description="The member whose time is booked.")
    starts_at: Instant
    ends_at: Instant = Field(description="Or `durationMinutes`, counted from `startsAt`.")
    status: AppointmentStatus = AppointmentStatus.SCHEDULED
    lead_id: UUID | None = None
    contact_id: UUID | None = None
    location: Line | None = None
    notes: Text | None = None
    allow_overlap: bool = Field(
        default=False, description="Whether it may overlap with other appointments of the member."
    )
    confirmed_at: Instant | None = Field(default=None, json_schema_extra=READ_ONLY)
    confirmed_by: Line | None = Field(default=None, json_schema_extra=READ_ONLY)
    confirmation_notes: Text | None = Field(default=None, json_schema_extra=READ_ONLY)
    cancel_reason: Line | None = Field(default=None, json_schema_extra=READ_ONLY)

    @model_validator(mode="before")
    @classmethod
    def _replace_duration_by_end(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "durationMinutes" not in given:
            return given
        rest = {name: value for name, value in given.items() if name != "durationMinutes"}
        if given["durationMinutes"] is None:
            return rest
        try:
            starts_at = INSTANT.validate_python(given.get("startsAt"))
        except ValidationError:
            return {**rest, "endsAt": given.get("startsAt")}  # both are then reported as invalid
        return {**rest, "endsAt": end_after(starts_at, given["durationMinutes"]).isoformat()}

    @model_validator(mode="after")
    def _require_end_after_start(self) -> Self:
        if self.ends_at <= self.starts_at:
            raise fault_of("endsAt", "must be after startsAt")
        if self.ends_at - self.starts_at > timedelta(days=DURATION_MAX_DAYS):
            raise fault_of("endsAt", f"must be at most {DURATION_MAX_DAYS} days after startsAt")
        return self


def end_after(starts_at: datetime, minutes: object) -> datetime:
    """The end of an appointment of this duration.

    Raises `PydanticCustomError`, a `ValueError`, for an invalid duration.
    """
    if type(minutes) is not int or not 0 < minutes <= DURATION_MAX_MINUTES:
        raise fault_of("durationMinutes", f"must be a number from 1 to {DURATION_MAX_MINUTES}")
    return starts_at + timedelta(minutes=minutes)


class Appointment(Entity):
    """An appointment is scheduled and confirmed; then it takes place, is cancelled or missed.

    A rescheduled appointment has to be confirmed again; a cancelled one can be rescheduled.

    Decisions, and when they are refused:

    create: a field is invalid, or is one that only the steps below set, or the status is confirmed
        (`InvalidFields`). What took place, was cancelled or missed may be recorded afterwards.
    revise: as create, or the status would change.
    change_status: the status would change (`InvalidFields`); only the steps below change it.
    confirm: it is confirmed (`AlreadyConfirmed`), or not scheduled (`TransitionRefused`).
    reschedule: it was completed or missed (`TransitionRefused`), or a field is invalid.
    cancel, complete, miss: it is neither scheduled nor confirmed (`TransitionRefused`), or `reason`
        is invalid. Repeating one records nothing.
    delete, restore, undo_delete: never. Repeating one records nothing.
    begin_move, complete_move: never. A merge of accounts moves their appointments by both.
    revert: a field is no longer valid (`InvalidFields`). Used by undo; ignores `TRANSITIONS`.

    A deleted appointment refuses all but delete, restore, undo_delete and complete_move
    (`IsDeleted`). A decision dated before the last event is refused (`OccurredTooEarly`). Commands
    also refuse a time at which the member is not free (`TimeTaken`), unless overlap is allowed; an
    account (`AccountUnavailable`), lead or contact (`ReferenceUnavailable`) that does not exist or
    is deleted; and an assignee or member who is not in the workspace (`NotAMember`).
    """

    TOPIC = "appointment"
    KIND = "appointment"
    PLURAL = "appointments"
    FIELDS = AppointmentFields
    IS_IMPORTABLE = True
    STATUS_FIELD = "status"
    SEARCH_FIELDS = ("title",)
    REFERENCES: ClassVar[Mapping[str, str]] = {"leadId": "lead", "contactId": "contact"}
    TRANSITIONS: ClassVar[Mapping[AppointmentStatus, frozenset[AppointmentStatus]]] = {
        AppointmentStatus.SCHEDULED: frozenset(AppointmentStatus) - {AppointmentStatus.SCHEDULED},
        AppointmentStatus.CONFIRMED: frozenset(AppointmentStatus) - {AppointmentStatus.CONFIRMED},
        AppointmentStatus.CANCELLED: frozenset({AppointmentStatus.SCHEDULED}),
    }
    STATUSES_OF_COMMANDS = frozenset({AppointmentStatus.CONFIRMED})
    BELONGS_TO_ACCOUNT = True
    CLAIMS_TIME = True

    title = required(str)
    member_id = required(UUID)
    starts_at = required(datetime.fromisoformat)
    ends_at = required(datetime.fromisoformat)
    status = required(str)
    lead_id = optional(UUID)
    contact_id = optional(UUID)
    location = optional(str)
    notes = optional(str)
    allow_overlap = optional(bool, default=False)
    confirmed_at = optional(datetime.fromisoformat)
    confirmed_by = optional(str)
    confirmation_notes = optional(str)
    cancel_reason = optional(str)

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "appointment.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "appointment.updated"

    class StatusChanged(Event, EntityStatusChanged):
        TOPIC = "appointment.status_changed"

    class Deleted(Event, EntityDeleted):
        TOPIC = "appointment.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "appointment.restored"

    class Confirmed(Event, EntityStep):
        """The appointment was confirmed; `notify` asks for a message to the lead."""

        TOPIC = "appointment.confirmed"
        notify: bool

    class Rescheduled(Event, EntityStep):
        """The appointment was moved to another time or another member."""

        TOPIC = "appointment.rescheduled"

    class Cancelled(Event, EntityStep):
        TOPIC = "appointment.cancelled"

    class Completed(Event, EntityStep):
        TOPIC = "appointment.completed"

    class Missed(Event, EntityStep):
        TOPIC = "appointment.missed"

    def read_only(self) -> frozenset[str]:
        """The status is read-only too: each step that changes it sets other fields with it."""
        return super().read_only() | {"status"}

    def confirm(
        self, by: str, *, at: datetime, notes: str | None = None, notify: bool = False
    ) -> None:
        """Record who confirmed the appointment.

        Raises `IsDeleted`, `AlreadyConfirmed`, `TransitionRefused`, `InvalidFields`.
        """
        self.require_not_deleted()
        if self.status == AppointmentStatus.CONFIRMED:
            raise AlreadyConfirmed(self.id, self.confirmed_at, self.confirmed_by)
        confirmed = {"confirmedAt": at.isoformat(), "confirmedBy": by, "confirmationNotes": notes}
        self._change_to(AppointmentStatus.CONFIRMED, self.Confirmed, at, confirmed, notify=notify)

    def reschedule(self, fields: FieldValues, *, at: datetime) -> None:
        """Change the times, the member and other fields. A field given as None stays as it is.

        The duration stays unless `endsAt` or `durationMinutes` is given. Raises `IsDeleted`,
        `TransitionRefused`, `InvalidFields`.
        """
        self.require_not_deleted()
        if self.status not in OPEN_STATUSES:
            self._require_transition(self.status, AppointmentStatus.SCHEDULED)
        given = {name: value for name, value in fields.items() if value is not None}
        moved = self.FIELDS.validated({**self.values, "endsAt": self._end_for(given), **given})
        changes = find_changes(self.values, moved)
        if changes or self.status not in OPEN_STATUSES:
            changed = {name: change["after"] for name, change in changes.items()}
            cleared = dict.fromkeys(
                ("confirmedAt", "confirmedBy", "confirmationNotes", "cancelReason")
            )
            status = {"status": AppointmentStatus.SCHEDULED.value}
            self._record_step(self.Rescheduled, {**changed, **cleared, **status}, at)

    def cancel(self, *, at: datetime, reason: str | None = None) -> None:
        """Cancel the appointment, unless it is cancelled already."""
        self._change_to(AppointmentStatus.CANCELLED, self.Cancelled, at, {"cancelReason": reason})

    def complete(self, *, at: datetime) -> None:
        """Record that the appointment took place, unless this is recorded already."""
        self._change_to(AppointmentStatus.COMPLETED, self.Completed, at)

    def miss(self, *, at: datetime) -> None:
        """Record that the guest did not appear, unless this is recorded already."""
        self._change_to(AppointmentStatus.NO_SHOW, self.Missed, at)

    def claim(self) -> TimeClaim | None:
        """The member's time, unless the appointment is deleted, cancelled or missed."""
        if self.is_deleted or self.status not in CLAIMING_STATUSES:
            return None
        return TimeClaim(self.member_id, self.starts_at, self.ends_at, self.allow_overlap)

    def _change_to(
        self,
        status: AppointmentStatus,
        event: type[EntityStep],
        at: datetime,
        fields: FieldValues | None = None,
        **data: Any,
    ) -> None:
        self.require_not_deleted()
        if self.status != status:
            self._record_step(event, {**(fields or {}), "status": status.value}, at, **data)

    def _end_for(self, given: FieldValues) -> str:
        """The end that keeps the duration, from the given start."""
        try:
            starts_at = INSTANT.validate_python(given.get("startsAt", self.starts_at))
        except ValidationError:
            return self.ends_at.isoformat()  # the invalid startsAt is refused on validation
        return (starts_at + (self.ends_at - self.starts_at)).isoformat()
