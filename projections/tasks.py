"""Tasks: one row per task."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import Lifecycle, entity_table

PROJECTION = Projection(
    name="tasks",
    tables=(entity_table("tasks", Counts("task_counts", by=("status", "assigned_to"))),),
    rules=(Lifecycle("task", "tasks", searched=("title",), status="status"),),
)
