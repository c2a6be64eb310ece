"""Contact: a person at an account."""

from __future__ import annotations

from eventsourcing.domain import AggregateEvent
from pydantic import Field

from domain.shared.entity import (
    EntityCreated,
    EntityDeleted,
    EntityRestored,
    EntityUpdated,
)
from domain.shared.fields import Email, Fields, Name, Phone
from domain.shared.merging import EntityMerged, MergeableEntity
from domain.shared.properties import optional, required


class ContactFields(Fields):
    name: Name = Field(examples=["Ada Lovelace"])
    email: Email | None = Field(default=None, examples=["ada@example.com"])
    phone: Phone | None = Field(default=None, examples=["+44 20 7946 0000"])
    title: Name | None = Field(default=None, examples=["CFO"])


class Contact(MergeableEntity):
    """A person at an account.

    Decisions, and when they are refused:

    create: no account is given (`AccountUnavailable`), or a field is invalid (`InvalidFields`).
    revise: a field is invalid (`InvalidFields`).
    merge: the two are the same contact (`MergeRefused`), one is deleted, or a field is invalid.
    delete, undo_delete: never. Repeating one records nothing.
    restore: the contact was merged into another one (`WasMerged`).
    begin_move, complete_move: never. A merge of accounts moves their contacts by both.
    revert: a field is no longer valid (`InvalidFields`). Used by undo.

    A deleted contact refuses revise, merge, begin_move and revert (`IsDeleted`; `WasMerged` if it
    was merged). A decision dated before the last event is refused (`OccurredTooEarly`). Commands
    also refuse an account that does not exist or is deleted (`AccountUnavailable`), and an
    assignee who is not a member of the workspace (`NotAMember`).
    """

    TOPIC = "contact"
    KIND = "contact"
    PLURAL = "contacts"
    FIELDS = ContactFields
    IS_IMPORTABLE = True
    BELONGS_TO_ACCOUNT = True
    ACCOUNT_REQUIRED = True

    name = required(str)
    email = optional(str)
    phone = optional(str)
    title = optional(str)

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
