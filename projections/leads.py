"""Leads: one row per lead, with the time of its last status change."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import Lifecycle, entity_table

PROJECTION = Projection(
    name="leads",
    tables=(entity_table("leads", Counts("lead_counts", by=("status", "source", "assigned_to"))),),
    rules=(
        Lifecycle(
            "lead",
            "leads",
            searched=("name", "company", "email"),
            status="status",
            status_since="status_changed_at",
            changed=("converted",),
        ),
    ),
)
