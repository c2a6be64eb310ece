"""Note: something worth remembering about an account."""

from __future__ import annotations

from eventsourcing.domain import AggregateEvent
from pydantic import Field

from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityRestored,
    EntityUpdated,
)
from domain.shared.fields import Fields, Name, Text


class NoteFields(Fields):
    title: Name | None = None
    body: Text = Field(examples=["Prefers to be called in the morning."])


class Note(Entity):
    """A text kept with an account; who wrote it stands in its history."""

    TOPIC = "note"
    KIND = "note"
    PLURAL = "notes"
    FIELDS = NoteFields
    SEARCHED = ("body",)
    BELONGS_TO_ACCOUNT = True
    ACCOUNT_REQUIRED = True

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "note.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "note.updated"

    class Deleted(Event, EntityDeleted):
        TOPIC = "note.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "note.restored"
