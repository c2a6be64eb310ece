"""Appointments: one row an appointment."""

from __future__ import annotations

from projections.changes import Counts, Projection, Table
from projections.lifecycle import lifecycle

LIFE = lifecycle("appointment", "appointments", status="status")
STEPS = ("confirmed", "rescheduled", "cancelled", "completed", "missed")

PROJECTION = Projection(
    name="appointments",
    tables=(
        Table(
            "appointments",
            maps=("custom_fields",),
            counts=Counts("appointment_counts", by=("status", "member_id", "assigned_to")),
        ),
    ),
    # A step says what it changed as every update does.
    handlers={
        **LIFE,
        **{f"appointment.{step}": LIFE["appointment.updated"] for step in STEPS},
    },
)
