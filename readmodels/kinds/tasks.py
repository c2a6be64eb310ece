"""The list of tasks."""

from __future__ import annotations

from readmodels.spec import CREATED_AT, Sort, by_text, columns, count_by, entity_list

SPEC = entity_list(
    "tasks",
    columns("title", "status", "due_date", "description"),
    counted=by_text("status"),
    counts_table="task_counts",
    sorts={
        "status": Sort.by(("status", "text"), CREATED_AT),
        "due_date": Sort.by(("due_date_key", "date")),
    },
    search_inline="t.title_folded LIKE %(pattern)s",
    stats={"byStatus": count_by("task_counts", "status")},
)
