"""Meeting: an hour spent, or to be spent, with an account."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Self

from eventsourcing.domain import AggregateEvent
from pydantic import Field, model_validator

from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityRestored,
    EntityStatusChanged,
    EntityUpdated,
)
from domain.shared.fields import Fields, Instant, Line, Name, Text


class MeetingStatus(StrEnum):
    SCHEDULED = "scheduled"
    HELD = "held"
    CANCELLED = "cancelled"


class MeetingFields(Fields):
    title: Name = Field(examples=["Kick-off"])
    status: MeetingStatus = MeetingStatus.SCHEDULED
    starts_at: Instant | None = None
    ends_at: Instant | None = None
    location: Line | None = None
    agenda: Text | None = None

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.starts_at and self.ends_at and self.ends_at < self.starts_at:
            raise ValueError("endsAt must not lie before startsAt")
        return self


class Meeting(Entity):
    """A meeting is scheduled, then held or cancelled; a cancelled one can be scheduled again."""

    TOPIC = "meeting"
    KIND = "meeting"
    PLURAL = "meetings"
    FIELDS = MeetingFields
    SEARCHED = ("title",)
    STATUS_FIELD = "status"
    TRANSITIONS: ClassVar[Any] = {
        MeetingStatus.SCHEDULED: frozenset({MeetingStatus.HELD, MeetingStatus.CANCELLED}),
        MeetingStatus.CANCELLED: frozenset({MeetingStatus.SCHEDULED}),
    }
    BELONGS_TO_ACCOUNT = True
    ACCOUNT_REQUIRED = True

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "meeting.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "meeting.updated"

    class StatusChanged(Event, EntityStatusChanged):
        TOPIC = "meeting.status_changed"

    class Deleted(Event, EntityDeleted):
        TOPIC = "meeting.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "meeting.restored"
