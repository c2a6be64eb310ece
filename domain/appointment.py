"""Appointment: time of a member that somebody has booked."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import AggregateEvent
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from domain.shared.claims import TimeClaim
from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityRestored,
    EntityStatusChanged,
    EntityStep,
    EntityUpdated,
    differences,
)
from domain.shared.fields import (
    READ_ONLY,
    Fields,
    FieldValues,
    Instant,
    Line,
    Name,
    Text,
)
from domain.shared.refusals import AlreadyConfirmed

DURATION_MAX_DAYS = 7
DURATION_MAX_MINUTES = DURATION_MAX_DAYS * 24 * 60


class AppointmentStatus(StrEnum):
    SCHEDULED = "scheduled"
    CONFIRMED = "confirmed"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    NO_SHOW = "no_show"


OPEN = frozenset({AppointmentStatus.SCHEDULED, AppointmentStatus.CONFIRMED})
TAKES_TIME = OPEN | {AppointmentStatus.COMPLETED}

INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


class AppointmentFields(Fields):
    SET_BY_COMMAND = frozenset(
        {"confirmed_at", "confirmed_by", "confirmation_notes", "cancel_reason"}
    )

    title: Name = Field(examples=["First call"])
    member_id: UUID = Field(description="Whose time it is.")
    starts_at: Instant
    ends_at: Instant = Field(description="Or `durationMinutes`, which counts from `startsAt`.")
    status: AppointmentStatus = AppointmentStatus.SCHEDULED
    lead_id: UUID | None = None
    contact_id: UUID | None = None
    location: Line | None = None
    notes: Text | None = None
    allow_overlap: bool = Field(
        default=False, description="Whether it may lie beside what the member has already."
    )
    confirmed_at: Instant | None = Field(default=None, json_schema_extra=READ_ONLY)
    confirmed_by: Line | None = Field(default=None, json_schema_extra=READ_ONLY)
    confirmation_notes: Text | None = Field(default=None, json_schema_extra=READ_ONLY)
    cancel_reason: Line | None = Field(default=None, json_schema_extra=READ_ONLY)

    @model_validator(mode="before")
    @classmethod
    def _end_of_duration(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("durationMinutes") is None:
            return given
        rest = {name: value for name, value in given.items() if name != "durationMinutes"}
        try:
            ends_at = end_after(INSTANT.validate_python(given.get("startsAt")), given)
        except ValidationError:
            return {**rest, "endsAt": given.get("startsAt")}  # startsAt is at fault, and is told so
        return {**rest, "endsAt": ends_at.isoformat()}

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.ends_at <= self.starts_at:
            raise ValueError("endsAt must lie after startsAt")
        if self.ends_at - self.starts_at > timedelta(days=DURATION_MAX_DAYS):
            raise ValueError(f"it may last {DURATION_MAX_DAYS} days at the most")
        return self


def end_after(starts_at: datetime, given: FieldValues) -> datetime:
    """When it ends that lasts `durationMinutes`. Raises ValueError."""
    minutes = given["durationMinutes"]
    if type(minutes) is not int or not 0 < minutes <= DURATION_MAX_MINUTES:
        raise ValueError(f"durationMinutes must be a number from 1 to {DURATION_MAX_MINUTES}")
    return starts_at + timedelta(minutes=minutes)


class Appointment(Entity):
    """An appointment is scheduled and confirmed; then it takes place, is cancelled or missed.

    Its status moves by commands alone: each knows what belongs to it. One that is rescheduled has
    to be confirmed again; a cancelled one can be rescheduled. What takes a member's time may not
    overlap with what takes it already, unless it says so.
    """

    TOPIC = "appointment"
    KIND = "appointment"
    PLURAL = "appointments"
    FIELDS = AppointmentFields
    STATUS_FIELD = "status"
    SEARCHED = ("title",)
    REFERENCES: ClassVar[Any] = {"leadId": "lead", "contactId": "contact"}
    TRANSITIONS: ClassVar[Any] = {
        AppointmentStatus.SCHEDULED: frozenset(AppointmentStatus) - {AppointmentStatus.SCHEDULED},
        AppointmentStatus.CONFIRMED: frozenset(AppointmentStatus) - {AppointmentStatus.CONFIRMED},
        AppointmentStatus.CANCELLED: frozenset({AppointmentStatus.SCHEDULED}),
    }
    BELONGS_TO_ACCOUNT = True
    CLAIMS_TIME = True

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
        """It was confirmed; `notify` asks for a message to whom it concerns."""

        TOPIC = "appointment.confirmed"
        notify: bool

    class Rescheduled(Event, EntityStep):
        """It moved to another time, or to another member."""

        TOPIC = "appointment.rescheduled"

    class Cancelled(Event, EntityStep):
        TOPIC = "appointment.cancelled"

    class Completed(Event, EntityStep):
        TOPIC = "appointment.completed"

    class Missed(Event, EntityStep):
        TOPIC = "appointment.missed"

    def kept(self) -> frozenset[str]:
        """The status as well: each of its moves knows what belongs to it."""
        return super().kept() | {"status"}

    def confirm(
        self, by: str, *, at: datetime, notes: str | None = None, notify: bool = False
    ) -> None:
        """Somebody confirms it. Raises `AlreadyConfirmed`, and as every step."""
        self.require_alive()
        if self.status == AppointmentStatus.CONFIRMED:
            raise AlreadyConfirmed(self.id, self.values["confirmedAt"], self.values["confirmedBy"])
        confirmed = {"confirmedAt": at.isoformat(), "confirmedBy": by, "confirmationNotes": notes}
        self._move(self.Confirmed, AppointmentStatus.CONFIRMED, at, confirmed, notify=notify)

    def reschedule(self, fields: FieldValues, *, at: datetime) -> None:
        """Move it to the times, the member and so on in `fields`, where None changes nothing.

        It lasts as long as before where neither `endsAt` nor `durationMinutes` says otherwise.
        """
        self.require_alive()
        self._require_move(AppointmentStatus.SCHEDULED)
        given = {name: value for name, value in fields.items() if value is not None}
        moved = self.FIELDS.values({**self.values, "endsAt": self._end(given), **given})
        unconfirmed = dict.fromkeys(
            ("confirmedAt", "confirmedBy", "confirmationNotes", "cancelReason")
        )
        changed = {
            name: change["after"] for name, change in differences(self.values, moved).items()
        }
        if changed or self.status not in OPEN:
            status = {"status": AppointmentStatus.SCHEDULED.value}
            self._step(self.Rescheduled, {**changed, **unconfirmed, **status}, at)

    def cancel(self, *, at: datetime, reason: str | None = None) -> None:
        """It will not take place; nothing is recorded where that is known."""
        self._move(self.Cancelled, AppointmentStatus.CANCELLED, at, {"cancelReason": reason})

    def complete(self, *, at: datetime) -> None:
        """It took place; nothing is recorded where that is known."""
        self._move(self.Completed, AppointmentStatus.COMPLETED, at)

    def miss(self, *, at: datetime) -> None:
        """Nobody came; nothing is recorded where that is known."""
        self._move(self.Missed, AppointmentStatus.NO_SHOW, at)

    def claim(self) -> TimeClaim | None:
        """The member's time, unless it is free again."""
        if self.is_deleted or self.status not in TAKES_TIME:
            return None
        return TimeClaim(
            UUID(self.values["memberId"]),
            datetime.fromisoformat(self.values["startsAt"]),
            datetime.fromisoformat(self.values["endsAt"]),
            self.values.get("allowOverlap", False),
        )

    def _move(
        self,
        event: type[EntityStep],
        status: AppointmentStatus,
        at: datetime,
        fields: FieldValues | None = None,
        **facts: Any,
    ) -> None:
        self.require_alive()
        if self.status != status:
            self._step(event, {**(fields or {}), "status": status.value}, at, **facts)

    def _require_move(self, status: AppointmentStatus) -> None:
        if self.status not in OPEN:
            self._require_transition(str(self.status), status)

    def _end(self, given: FieldValues) -> str:
        """The end that keeps the duration."""
        starts_at = datetime.fromisoformat(self.values["startsAt"])
        lasts = datetime.fromisoformat(self.values["endsAt"]) - starts_at
        try:
            return (INSTANT.validate_python(given.get("startsAt", starts_at)) + lasts).isoformat()
        except ValidationError:
            return str(self.values["endsAt"])  # startsAt is at fault, and is told so
