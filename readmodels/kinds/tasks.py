"""Tasks."""

from __future__ import annotations

from readmodels.spec import (
    ACCOUNT,
    ASSIGNEE,
    CREATED,
    OF_ACCOUNT,
    STAMPS,
    UPDATED,
    ListSpec,
    Sort,
    columns,
    count_by,
)

SPEC = ListSpec(
    plural="tasks",
    items={
        **columns("id"),
        **OF_ACCOUNT,
        **columns("title", "status", "due_date", "description"),
        **STAMPS,
    },
    filters={**ACCOUNT, "status": ("status", "text"), **ASSIGNEE},
    counts_table="task_counts",
    counted=frozenset({"status", "assignedTo"}),
    sorts={
        "status": Sort((("status", "text"), ("created_at", "timestamptz"))),
        "due_date": Sort((("due_date_key", "date"),)),
        "created_at": CREATED,
        "updated_at": UPDATED,
    },
    search="read.search_tasks",
    search_inline="t.title ILIKE %(pattern)s",
    stats={"byStatus": count_by("task_counts", "status")},
)
