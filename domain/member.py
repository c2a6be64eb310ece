"""Member: a person who works in the workspace and to whom entities are assigned."""

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
from domain.shared.fields import Email, Fields, Name
from domain.shared.properties import optional, required


class MemberFields(Fields):
    name: Name = Field(examples=["Grace Hopper"])
    email: Email | None = Field(default=None, examples=["grace@example.com"])
    title: Name | None = None


class Member(Entity):
    """A person who works in the workspace. Entities stay assigned to a deleted member.

    Decisions, and when they are refused:

    create, revise: a field is invalid (`InvalidFields`).
    delete, restore, undo_delete: never. Repeating one records nothing.
    revert: a field is no longer valid (`InvalidFields`). Used by undo.

    A deleted member refuses revise and revert (`IsDeleted`). A decision dated before the last event
    is refused (`OccurredTooEarly`). Commands also refuse an assignee who is not a member of the
    workspace (`NotAMember`).
    """

    TOPIC = "member"
    KIND = "member"
    PLURAL = "members"
    FIELDS = MemberFields
    IS_IMPORTABLE = True

    name = required(str)
    email = optional(str)
    title = optional(str)

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "member.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "member.updated"

    class Deleted(Event, EntityDeleted):
        TOPIC = "member.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "member.restored"
