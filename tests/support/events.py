"""Recorded events made without a log."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from eventlog.reading import RecordedEvent


def recorded_event(topic: str, data: dict[str, Any], stream: UUID | None = None) -> RecordedEvent:
    """Return an event of workspace 1 at position 7, version 3 of its stream."""
    return RecordedEvent(
        7, str(UUID(int=1)), str(stream or UUID(int=2)), 3, topic, None, data, b"{}", "", "", 0
    )
