"""Notes: one row per note."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import entity_table, lifecycle

PROJECTION = Projection(
    name="notes",
    tables=(entity_table("notes", Counts("note_counts", by=("assigned_to",))),),
    handlers=lifecycle("note", "notes", searched=("body",)),
)
