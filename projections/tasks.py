"""Tasks: one row a task."""

from __future__ import annotations

from projections.changes import Counts, Projection, Table
from projections.lifecycle import lifecycle

PROJECTION = Projection(
    name="tasks",
    tables=(
        Table(
            "tasks",
            maps=("custom_fields",),
            counts=Counts("task_counts", by=("status", "assigned_to")),
        ),
    ),
    handlers=lifecycle("task", "tasks", status="status"),
)
