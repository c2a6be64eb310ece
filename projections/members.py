"""Members: one row per member. A deleted member's row stays, for its name on assigned entities."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import Lifecycle, entity_table

PROJECTION = Projection(
    name="members",
    tables=(entity_table("members", Counts("member_counts", by=("is_deleted",))),),
    rules=(
        Lifecycle(
            "member",
            "members",
            searched=("name",),
            deleted_flag="is_deleted",
            defaults={"is_deleted": False},
        ),
    ),
)
