"""Members: one row per member. A deleted member's row stays, for its name on assigned entities."""

from __future__ import annotations

from collections.abc import Iterable

from eventlog.reading import RecordedEvent
from projections.changes import Counts, Patch, Projection, RowChange
from projections.lifecycle import entity_table, lifecycle, stamps


def deleted(event: RecordedEvent) -> Iterable[RowChange]:
    """Mark the row as deleted; the name stays."""
    return (Patch("members", event.stream_id, {"is_deleted": True, **stamps(event)}),)


PROJECTION = Projection(
    name="members",
    tables=(entity_table("members", Counts("member_counts", by=("is_deleted",))),),
    handlers={
        **lifecycle("member", "members", searched=("name",), defaults={"is_deleted": False}),
        "member.deleted": deleted,
    },
)
