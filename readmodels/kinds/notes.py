"""Notes."""

from __future__ import annotations

from readmodels.spec import (
    ACCOUNT,
    ASSIGNEE,
    CREATED,
    OF_ACCOUNT,
    STAMPS,
    UPDATED,
    ListSpec,
    columns,
)

SPEC = ListSpec(
    plural="notes",
    items={
        **columns("id"),
        **OF_ACCOUNT,
        **columns("title", "body"),
        **STAMPS,
    },
    filters={**ACCOUNT, **ASSIGNEE},
    counts_table="note_counts",
    counted=frozenset({"assignedTo"}),
    sorts={"created_at": CREATED, "updated_at": UPDATED},
    search="read.search_notes",
    search_inline="t.body ILIKE %(pattern)s",
)
