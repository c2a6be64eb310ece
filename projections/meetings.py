"""Meetings: one row a meeting."""

from __future__ import annotations

from projections.changes import Counts, Projection, Table
from projections.lifecycle import lifecycle

PROJECTION = Projection(
    name="meetings",
    tables=(
        Table(
            "meetings",
            maps=("custom_fields",),
            counts=Counts("meeting_counts", by=("status", "assigned_to")),
        ),
    ),
    handlers=lifecycle("meeting", "meetings", status="status"),
)
