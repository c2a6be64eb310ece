"""Notes: one row a note."""

from __future__ import annotations

from projections.changes import Counts, Projection, Table
from projections.lifecycle import lifecycle

PROJECTION = Projection(
    name="notes",
    tables=(
        Table(
            "notes",
            maps=("custom_fields",),
            counts=Counts("note_counts", by=("assigned_to",)),
        ),
    ),
    handlers=lifecycle("note", "notes"),
)
