"""Meeting: a past or planned meeting with an account."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Self

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
from domain.shared.fields import Choice, Fields, Instant, Line, Name, Text, fault_of
from domain.shared.properties import optional, required


class MeetingStatus(Choice):
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
    def _require_end_not_before_start(self) -> Self:
        if self.starts_at and self.ends_at and self.ends_at < self.starts_at:
            raise fault_of("endsAt", "must not be before startsAt")
        return self


class Meeting(Entity):
    """A meeting is scheduled, then held or cancelled; a cancelled meeting can be scheduled again.

    Decisions, and when they are refused:

    create: no account is given (`AccountUnavailable`), or a field is invalid (`InvalidFields`).
    revise, change_status: a field is invalid (`InvalidFields`), or `TRANSITIONS` lacks the new
        status (`TransitionRefused`).
    delete, restore, undo_delete: never. Repeating one records nothing.
    begin_move, complete_move: never. A merge of accounts moves their meetings by both.
    revert: a field is no longer valid (`InvalidFields`). Used by undo; ignores `TRANSITIONS`.

    A deleted meeting refuses revise, change_status, begin_move and revert (`IsDeleted`). A decision
    dated before the last event is refused (`OccurredTooEarly`). Commands also refuse an account
    that does not exist or is deleted (`AccountUnavailable`), and an assignee who is not a member of
    the workspace (`NotAMember`).
    """

    TOPIC = "meeting"
    KIND = "meeting"
    PLURAL = "meetings"
    FIELDS = MeetingFields
    IS_IMPORTABLE = True
    SEARCH_FIELDS = ("title",)
    STATUS_FIELD = "status"
    TRANSITIONS: ClassVar[Mapping[MeetingStatus, frozenset[MeetingStatus]]] = {
        MeetingStatus.SCHEDULED: frozenset({MeetingStatus.HELD, MeetingStatus.CANCELLED}),
        MeetingStatus.CANCELLED: frozenset({MeetingStatus.SCHEDULED}),
    }
    BELONGS_TO_ACCOUNT = True
    ACCOUNT_REQUIRED = True

    title = required(str)
    status = required(str)
    starts_at = optional(datetime.fromisoformat)
    ends_at = optional(datetime.fromisoformat)
    location = optional(str)
    agenda = optional(str)

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
