"""Opportunities: one row per opportunity, and the pipeline by stage."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import Lifecycle, entity_table

PROJECTION = Projection(
    name="opportunities",
    tables=(
        entity_table(
            "opportunities",
            Counts("opportunity_counts", by=("stage", "assigned_to"), sums=("value",)),
        ),
    ),
    rules=(Lifecycle("opportunity", "opportunities", searched=("name",), status="stage"),),
)
