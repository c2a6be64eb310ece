"""Workspace: a tenant. Every other aggregate belongs to exactly one workspace."""

from __future__ import annotations

from eventsourcing.domain import AggregateEvent
from pydantic import Field

from domain.shared.entity import Entity, EntityCreated, EntityDeleted, EntityRestored, EntityUpdated
from domain.shared.fields import Fields, Name
from domain.shared.properties import required


class WorkspaceFields(Fields):
    name: Name = Field(examples=["Acme Sales"])


class Workspace(Entity):
    """A tenant. Its own id is the workspace id of its events.

    Decisions, and when they are refused:

    create, revise: a field is invalid (`InvalidFields`).
    delete, restore, undo_delete: never. Repeating one records nothing.
    revert: a field is no longer valid (`InvalidFields`). Used by undo.

    A deleted workspace refuses revise and revert (`IsDeleted`). A decision dated before the last
    event is refused (`OccurredTooEarly`). Commands also refuse an assignee who is not a member of
    the workspace (`NotAMember`).
    """

    TOPIC = "workspace"
    KIND = "workspace"
    PLURAL = "workspaces"
    FIELDS = WorkspaceFields

    name = required(str)

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "workspace.created"
        IS_IRREVERSIBLE = True

    class Updated(Event, EntityUpdated):
        TOPIC = "workspace.updated"

    class Deleted(Event, EntityDeleted):
        TOPIC = "workspace.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "workspace.restored"
