"""Proposals: one row per proposal."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import Lifecycle, entity_table

PROJECTION = Projection(
    name="proposals",
    tables=(entity_table("proposals", Counts("proposal_counts", by=("status", "assigned_to"))),),
    rules=(
        Lifecycle(
            "proposal",
            "proposals",
            searched=("title",),
            status="status",
            changed=("sent", "accepted", "declined", "revised"),
        ),
    ),
)
