"""The interface of an SMS gateway. Adapters for providers are in runtime/gateways/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True)
class OutgoingSms:
    """A message to be sent."""

    id: UUID
    """The same for every attempt, so that the gateway can recognise a repeated one."""
    workspace_id: UUID
    to: str
    """In E.164."""
    message: str


class GatewayRefused(Exception):
    """The gateway rejects this message; another attempt would be rejected too."""

    def __init__(self, reason: str, code: str | None = None) -> None:
        super().__init__(reason)
        self.code = code


class GatewayUnavailable(Exception):
    """The gateway gave no usable answer; it may or may not have accepted the message.

    retry_after_s: the pause that the gateway asked for, 0 by default.
    """

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class SmsGateway(Protocol):
    """Accepts messages. Several threads call it concurrently."""

    def send(self, sms: OutgoingSms) -> str:
        """Hand over the message within a bounded time; return the gateway's id of it.

        Raises `GatewayRefused`, `GatewayUnavailable`.
        """
