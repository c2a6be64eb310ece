"""Appointments: one row per appointment."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import Lifecycle, entity_table

PROJECTION = Projection(
    name="appointments",
    tables=(
        entity_table(
            "appointments", Counts("appointment_counts", by=("status", "member_id", "assigned_to"))
        ),
    ),
    rules=(
        Lifecycle(
            "appointment",
            "appointments",
            searched=("title",),
            status="status",
            changed=("confirmed", "rescheduled", "cancelled", "completed", "missed"),
        ),
    ),
)
