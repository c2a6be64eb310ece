"""What an error code is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorCode:
    """One way in which a request can fail: its HTTP status, and a sentence for each reader."""

    code: str
    status: int
    title: str
    explanation: str
    known_as: str | None = None
    """What clients know it as: `code` in the problem document, where `errorCode` is this one."""
