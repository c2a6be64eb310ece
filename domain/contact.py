"""Contact: a person at an account."""

from __future__ import annotations

from eventsourcing.domain import AggregateEvent
from pydantic import Field

from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityMerged,
    EntityRestored,
    EntityUpdated,
)
from domain.shared.fields import Email, Fields, Name, Phone


class ContactFields(Fields):
    name: Name = Field(examples=["Ada Lovelace"])
    email: Email | None = Field(default=None, examples=["ada@example.com"])
    phone: Phone | None = Field(default=None, examples=["+44 20 7946 0000"])
    title: Name | None = Field(default=None, examples=["CFO"])


class Contact(Entity):
    """A person whom the workspace knows at an account."""

    TOPIC = "contact"
    KIND = "contact"
    PLURAL = "contacts"
    FIELDS = ContactFields
    BELONGS_TO_ACCOUNT = True
    ACCOUNT_REQUIRED = True

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "contact.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "contact.updated"

    class Deleted(Event, EntityDeleted):
        TOPIC = "contact.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "contact.restored"

    class Merged(Event, EntityMerged):
        TOPIC = "contact.merged"
