"""Members: one row a member. One who left keeps a row, for the name on what was assigned."""

from __future__ import annotations

from collections.abc import Iterable

from eventlog.reading import RecordedEvent
from projections.changes import Counts, Patch, Projection, RowChange, Table
from projections.lifecycle import lifecycle, stamps


def left(event: RecordedEvent) -> Iterable[RowChange]:
    """The member is gone; the name stays."""
    return (Patch("members", event.stream_id, {"is_deleted": True, **stamps(event)}),)


PROJECTION = Projection(
    name="members",
    tables=(
        Table(
            "members",
            maps=("custom_fields",),
            counts=Counts("member_counts", by=("is_deleted",)),
        ),
    ),
    handlers={
        **lifecycle("member", "members", defaults={"is_deleted": False}),
        "member.deleted": left,
    },
)
