"""Opportunities: one row an opportunity, and the pipeline by stage."""

from __future__ import annotations

from projections.changes import Counts, Projection, Table
from projections.lifecycle import lifecycle

PROJECTION = Projection(
    name="opportunities",
    tables=(
        Table(
            "opportunities",
            maps=("custom_fields",),
            counts=Counts("opportunity_counts", by=("stage", "assigned_to"), sums=("value",)),
        ),
    ),
    handlers=lifecycle("opportunity", "opportunities", status="stage"),
)
