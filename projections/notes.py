"""Notes: one row per note."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import Lifecycle, entity_table

PROJECTION = Projection(
    name="notes",
    tables=(entity_table("notes", Counts("note_counts", by=("assigned_to",))),),
    rules=(Lifecycle("note", "notes", searched=("body",)),),
)
