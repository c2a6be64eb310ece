"""Meetings: one row per meeting."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import Lifecycle, entity_table

PROJECTION = Projection(
    name="meetings",
    tables=(entity_table("meetings", Counts("meeting_counts", by=("status", "assigned_to"))),),
    rules=(Lifecycle("meeting", "meetings", searched=("title",), status="status"),),
)
