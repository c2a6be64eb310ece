"""Task: work to be done for an account."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import ClassVar

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
from domain.shared.fields import Choice, Date, Fields, Name, Text
from domain.shared.properties import optional, required


class TaskStatus(Choice):
    TODO = "todo"
    IN_PROGRESS = "in_progress"
    DONE = "done"


class TaskFields(Fields):
    title: Name = Field(examples=["Call back about the offer"])
    status: TaskStatus = TaskStatus.TODO
    due_date: Date | None = None
    description: Text | None = None


class Task(Entity):
    """Work to be done for an account. A task is open until it is done.

    Decisions, and when they are refused:

    create: no account is given (`AccountUnavailable`), or a field is invalid (`InvalidFields`).
    revise: a field is invalid (`InvalidFields`).
    change_status: the status does not exist (`InvalidFields`); otherwise every change is allowed.
    delete, restore, undo_delete: never. Repeating one records nothing.
    begin_move, complete_move: never. A merge of accounts moves their tasks by both.
    revert: a field is no longer valid (`InvalidFields`). Used by undo.

    A deleted task refuses revise, change_status, begin_move and revert (`IsDeleted`). A decision
    dated before the last event is refused (`OccurredTooEarly`). Commands also refuse an account
    that does not exist or is deleted (`AccountUnavailable`), and an assignee who is not a member of
    the workspace (`NotAMember`).
    """

    TOPIC = "task"
    KIND = "task"
    PLURAL = "tasks"
    FIELDS = TaskFields
    IS_IMPORTABLE = True
    SEARCH_FIELDS = ("title",)
    STATUS_FIELD = "status"
    TRANSITIONS: ClassVar[Mapping[TaskStatus, frozenset[TaskStatus]]] = {
        status: frozenset(TaskStatus) - {status} for status in TaskStatus
    }
    BELONGS_TO_ACCOUNT = True
    ACCOUNT_REQUIRED = True

    title = required(str)
    status = required(str)
    due_date = optional(date.fromisoformat)
    description = optional(str)

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
