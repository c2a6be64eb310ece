"""Workspace: the tenant. Everything else lives in exactly one."""

from __future__ import annotations

from eventsourcing.domain import AggregateEvent
from pydantic import Field

from domain.shared.entity import Entity, EntityCreated, EntityDeleted, EntityRestored, EntityUpdated
from domain.shared.fields import Fields, Name


class WorkspaceFields(Fields):
    name: Name = Field(examples=["Acme Sales"])


class Workspace(Entity):
    """The tenant. Its own id is the workspace id of its events."""

    TOPIC = "workspace"
    KIND = "workspace"
    PLURAL = "workspaces"
    FIELDS = WorkspaceFields

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
