"""The port to whoever delivers text messages. Its adapters are in `runtime/gateways/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True)
class OutgoingSms:
    """A message on its way out."""

    id: UUID
    """The same for every attempt: by it the gateway can tell a second one."""
    workspace_id: UUID
    to: str
    """In E.164."""
    message: str


class GatewayRefused(Exception):
    """The gateway will not take this message, however often it is asked."""

    def __init__(self, reason: str, code: str | None = None) -> None:
        super().__init__(reason)
        self.code = code


class GatewayUnavailable(Exception):
    """The gateway did not answer, or not to the point; whether it took the message is not known.

    retry_after_s: how long it wants to be left alone, where it said so.
    """

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class SmsGateway(Protocol):
    """Takes messages. Called by several threads at once."""

    def send(self, sms: OutgoingSms) -> str:
        """Hand it over; what the gateway calls it. Bounded in time.

        Raises `GatewayRefused`, `GatewayUnavailable`.
        """
