"""Time that an entity takes up: of one holder, and by default of no other entity as well."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True)
class TimeClaim:
    """The holder's time from `starts_at` to before `ends_at`."""

    holder_id: UUID
    starts_at: datetime
    ends_at: datetime
    may_overlap: bool = False
    """Whether it may lie beside what others claim already."""
