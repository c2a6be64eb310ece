"""Models of what several responses show: actors, changes of fields, entries of histories, links."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel


class ResponseModel(BaseModel):
    """Base of the models of responses: camelCase names."""

    model_config = ConfigDict(alias_generator=to_camel)


class Actor(ResponseModel):
    """Who acted."""

    type: str = Field(description="`api_key`, `member`, `system` or `process`.")
    id: str
    name: str | None


class FieldChange(ResponseModel):
    """A field before and after; null where it had no value."""

    field: str
    before: Any
    after: Any


class EntryDetails(ResponseModel):
    """What an entry says about merges and moves, and about a deletion with an account."""

    merged_into: UUID | None = None
    merged: UUID | None = None
    moved: dict[str, int] | None = None
    moved_from: UUID | None = None
    moved_to: UUID | None = None
    deleted_with: UUID | None = None


class HistoryEntry(ResponseModel):
    """One event of an entity: who, when, and what changed."""

    entity_id: UUID | None = Field(
        default=None, description="In histories of members, and with `includeMerged`."
    )
    position: int = Field(description="The position in the log.")
    version: int = Field(description="The version that the entity has since.")
    topic: str = Field(description="The type of the event.")
    action: str
    undoes: str | None = Field(description="The command that this event undoes.")
    undoes_position: int | None = Field(description="The event that this event undoes.")
    actor: Actor | None
    key_id: str | None = Field(description="The API key that was used.")
    occurred_at: datetime
    recorded_at: datetime
    request_id: str | None
    command: str | None = Field(description="The operation, such as `changeAccount`.")
    command_id: str | None
    causation_id: str | None
    changes: list[FieldChange]
    details: EntryDetails
    ip: str | None = Field(default=None, description="For callers who may read the audit trail.")
    user_agent: str | None = Field(default=None, description="As `ip`.")


class AuditEntry(ResponseModel):
    """One event of the workspace: who, when, from where, and what changed."""

    position: int
    entity_type: str
    entity_id: UUID
    action: str
    topic: str
    version: int
    account_id: UUID | None
    actor: Actor | None
    key_id: str | None = Field(description="The API key that was used.")
    occurred_at: datetime
    recorded_at: datetime
    ip: str | None
    user_agent: str | None
    request_id: str | None
    command: str | None
    command_id: str | None
    undoes: str | None
    undoes_position: int | None
    correlation_id: str | None
    causation_id: str | None
    changes: list[FieldChange]
    details: EntryDetails


class ItemProblem(BaseModel):
    """Why one of many items failed; further members carry details."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(examples=["E5002"])
    title: str
    detail: str


def page_of(item: type[BaseModel], name: str, cursor: Any) -> type[BaseModel]:
    """Return the model of a page `{items, nextCursor}`; `cursor` is the type of the cursor."""
    items: Any = list.__class_getitem__(item)
    described = Field(description="Ask for the next page with it; null on the last page.")
    return create_model(
        name,
        __base__=ResponseModel,
        __doc__="One page.",
        items=(items, ...),
        next_cursor=(cursor | None, described),
    )


HISTORY_PAGE = page_of(HistoryEntry, "HistoryPage", int)
AUDIT_PAGE = page_of(AuditEntry, "AuditPage", int)
