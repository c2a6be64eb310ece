"""API key: authenticates a client and gives it a role. Only a hash of the secret is recorded."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from eventsourcing.domain import AggregateEvent
from pydantic import Field

from domain.shared.entity import Entity, EntityCreated, EntityDeleted, EntityUpdated
from domain.shared.fields import Fields, Instant, Name
from domain.shared.properties import optional, required
from domain.shared.refusals import KeyRevoked

OPERATORS = UUID(int=0)
"""The reserved workspace that holds the operator keys and nothing else."""


class Role(StrEnum):
    ADMIN = "admin"
    MEMBER = "member"
    AUDITOR = "auditor"
    ANALYST = "analyst"
    READ_ONLY = "read-only"
    OPERATOR = "operator"
    """Operates the installation and belongs to no tenant: valid in the workspace OPERATORS only."""


class ApiKeyFields(Fields):
    name: Name = Field(examples=["Nightly sync"])
    role: Role
    member_id: UUID | None = Field(default=None, description="The member who acts by this key.")
    expires_at: Instant | None = None
    secret_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ApiKey(Entity):
    """A key is issued once and its secret is shown only then. A revoked key stays revoked.

    Decisions, and when they are refused:

    create, revise: a field is invalid (`InvalidFields`).
    delete: never; a second one records nothing.
    restore: the key is revoked (`KeyRevoked`).
    revert, undo_delete: never called, because undo is refused for keys (`IS_IRREVERSIBLE`).

    A deleted key is a revoked key and refuses revise and revert (`IsDeleted`). A decision
    dated before the last event is refused (`OccurredTooEarly`). Commands also refuse an assignee or
    a key's member who is not a member of the workspace (`NotAMember`).
    """

    TOPIC = "api_key"
    KIND = "api_key"
    PLURAL = "keys"
    FIELDS = ApiKeyFields

    name = required(str)
    role = required(str)
    member_id = optional(UUID)
    expires_at = optional(datetime.fromisoformat)
    secret_sha256 = required(str)

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "api_key.issued"
        IS_IRREVERSIBLE = True

    class Updated(Event, EntityUpdated):
        TOPIC = "api_key.updated"
        IS_IRREVERSIBLE = True

    class Deleted(Event, EntityDeleted):
        TOPIC = "api_key.revoked"
        IS_IRREVERSIBLE = True

    def restore(self, *, at: datetime, account_id: UUID | None = None) -> None:
        """Refuse to restore a revoked key. Raises `KeyRevoked`."""
        if self.is_deleted:
            raise KeyRevoked(self.id)
