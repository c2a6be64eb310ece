"""The scope of a command: workspace, actor and command. It becomes the metadata of its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self
from uuid import UUID

ActorType = Literal["member", "api_key", "system"]


@dataclass(frozen=True)
class Actor:
    """A member, an API key or the system."""

    type: ActorType
    id: str
    name: str | None = None


@dataclass(frozen=True)
class Credential:
    """An API key that was presented with its secret. The database checks it for key events."""

    key_id: UUID
    secret: str = field(repr=False)


AS_ONE = "asOne"
"""The key in metadata of events whose command can only be undone as a whole."""
SYSTEM = Actor("system", "annals", "Annals")


@dataclass(frozen=True)
class Scope:
    """The workspace in which a command acts, and the metadata that its events will have."""

    workspace_id: UUID
    actor: Actor = SYSTEM
    command: str = ""
    command_id: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    request_id: str = ""
    ip: str = ""
    user_agent: str = ""
    key_id: str = ""
    """The API key that was used, also if it acts for a member."""
    extra: dict[str, str] = field(default_factory=dict)
    credential: Credential | None = field(default=None, repr=False, compare=False)
    """What authorises changes of API keys; it is not part of the metadata."""

    def metadata(self) -> dict[str, Any]:
        """The metadata of events by wire name, without empty values."""
        actor = {"type": self.actor.type, "id": self.actor.id, "name": self.actor.name}
        known = {
            "keyId": self.key_id,
            "command": self.command,
            "commandId": self.command_id,
            "correlationId": self.correlation_id or self.command_id,
            "causationId": self.causation_id,
            "requestId": self.request_id,
            "ip": self.ip,
            "userAgent": self.user_agent,
            **self.extra,
        }
        return {
            "actor": {name: value for name, value in actor.items() if value},
            **{name: value for name, value in known.items() if value},
        }

    @classmethod
    def of(cls, workspace_id: UUID, metadata: Mapping[str, Any]) -> Self:
        """Rebuild a scope from the metadata of its events, to continue work begun in it."""
        known = {field: metadata.get(name, "") for name, field in _FIELDS.items()}
        extra = {
            name: value
            for name, value in metadata.items()
            if name not in _FIELDS and name != "actor"
        }
        actor = Actor(**metadata["actor"])
        return cls(workspace_id=workspace_id, actor=actor, extra=extra, **known)


_FIELDS = {
    "keyId": "key_id",
    "command": "command",
    "commandId": "command_id",
    "correlationId": "correlation_id",
    "causationId": "causation_id",
    "requestId": "request_id",
    "ip": "ip",
    "userAgent": "user_agent",
}
"""Fields of a scope by their name in metadata."""
