"""Appointments: one row per appointment."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import entity_table, lifecycle

LIFECYCLE = lifecycle("appointment", "appointments", searched=("title",), status="status")
STEPS = ("confirmed", "rescheduled", "cancelled", "completed", "missed")

PROJECTION = Projection(
    name="appointments",
    tables=(
        entity_table(
            "appointments", Counts("appointment_counts", by=("status", "member_id", "assigned_to"))
        ),
    ),
    # Events of the steps list their changes as updates do.
    handlers={
        **LIFECYCLE,
        **{f"appointment.{step}": LIFECYCLE["appointment.updated"] for step in STEPS},
    },
)
