"""Time slots that entities claim. By default two claims on one member's time may not overlap."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True)
class TimeClaim:
    """A claim on the time of a member, the holder, from `starts_at` to before `ends_at`."""

    holder_id: UUID
    starts_at: datetime
    ends_at: datetime
    may_overlap: bool = False
    """Whether the claim may overlap with existing claims."""
