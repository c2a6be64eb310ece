"""Member: a person who works in the workspace, and to whom things are assigned."""

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


class MemberFields(Fields):
    name: Name = Field(examples=["Grace Hopper"])
    email: Email | None = Field(default=None, examples=["grace@example.com"])
    title: Name | None = None


class Member(Entity):
    """A member of the workspace; what was assigned to one who left keeps the name."""

    TOPIC = "member"
    KIND = "member"
    PLURAL = "members"
    FIELDS = MemberFields

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "member.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "member.updated"

    class Deleted(Event, EntityDeleted):
        TOPIC = "member.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "member.restored"
