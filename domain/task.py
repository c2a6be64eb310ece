"""Task: something to be done for an account."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from eventsourcing.domain import AggregateEvent
from pydantic import Field

from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityRestored,
    EntityStatusChanged,
    EntityUpdated,
)
from domain.shared.fields import Date, Fields, Name, Text


class TaskStatus(StrEnum):
    TODO = "todo"
    IN_PROGRESS = "in_progress"
    DONE = "done"


class TaskFields(Fields):
    title: Name = Field(examples=["Call back about the offer"])
    status: TaskStatus = TaskStatus.TODO
    due_date: Date | None = None
    description: Text | None = None


class Task(Entity):
    """Something to be done; an account's open tasks are those that are not done."""

    TOPIC = "task"
    KIND = "task"
    PLURAL = "tasks"
    FIELDS = TaskFields
    SEARCHED = ("title",)
    STATUS_FIELD = "status"
    TRANSITIONS: ClassVar[Any] = {status: frozenset(TaskStatus) - {status} for status in TaskStatus}
    BELONGS_TO_ACCOUNT = True
    ACCOUNT_REQUIRED = True

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "task.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "task.updated"

    class StatusChanged(Event, EntityStatusChanged):
        TOPIC = "task.status_changed"

    class Deleted(Event, EntityDeleted):
        TOPIC = "task.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "task.restored"
