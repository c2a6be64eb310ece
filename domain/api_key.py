"""API key: what a client shows to be let in, with a role. Only a hash of its secret is recorded."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from eventsourcing.domain import AggregateEvent
from pydantic import Field

from domain.shared.entity import Entity, EntityCreated, EntityDeleted, EntityUpdated
from domain.shared.fields import Fields, Instant, Name
from domain.shared.refusals import KeyRevoked


class Role(StrEnum):
    ADMIN = "admin"
    MEMBER = "member"
    AUDITOR = "auditor"
    ANALYST = "analyst"
    READ_ONLY = "read-only"


class ApiKeyFields(Fields):
    name: Name = Field(examples=["Nightly sync"])
    role: Role
    member_id: UUID | None = Field(default=None, description="The member who acts by this key.")
    expires_at: Instant | None = None
    secret_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ApiKey(Entity):
    """Issued once and shown once; revoked for good."""

    TOPIC = "api_key"
    KIND = "api_key"
    PLURAL = "keys"
    FIELDS = ApiKeyFields

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
        """A revoked key never comes back. Raises `KeyRevoked`."""
        if self.is_deleted:
            raise KeyRevoked(self.id)
