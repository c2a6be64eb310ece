"""Note: a text about an account."""

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
from domain.shared.properties import optional, required


class NoteFields(Fields):
    title: Name | None = None
    body: Text = Field(examples=["Prefers to be called in the morning."])


class Note(Entity):
    """A text about an account. Its author is the actor of its first event.

    Decisions, and when they are refused:

    create: no account is given (`AccountUnavailable`), or a field is invalid (`InvalidFields`).
    revise: a field is invalid (`InvalidFields`).
    delete, restore, undo_delete: never. Repeating one records nothing.
    begin_move, complete_move: never. A merge of accounts moves their notes by both.
    revert: a field is no longer valid (`InvalidFields`). Used by undo.

    A deleted note refuses revise, begin_move and revert (`IsDeleted`). A decision dated before the
    last event is refused (`OccurredTooEarly`). Commands also refuse an account that does not exist
    or is deleted (`AccountUnavailable`), and an assignee who is not a member of the workspace
    (`NotAMember`).
    """

    TOPIC = "note"
    KIND = "note"
    PLURAL = "notes"
    FIELDS = NoteFields
    IS_IMPORTABLE = True
    SEARCH_FIELDS = ("body",)
    BELONGS_TO_ACCOUNT = True
    ACCOUNT_REQUIRED = True

    title = optional(str)
    body = required(str)

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "note.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "note.updated"

    class Deleted(Event, EntityDeleted):
        TOPIC = "note.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "note.restored"
