"""Meetings."""

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
    plural="meetings",
    items={
        **columns("id"),
        **OF_ACCOUNT,
        **columns("title", "status", "starts_at", "ends_at", "location", "agenda"),
        **STAMPS,
    },
    filters={**ACCOUNT, "status": ("status", "text"), **ASSIGNEE},
    counts_table="meeting_counts",
    counted=frozenset({"status", "assignedTo"}),
    sorts={
        "status": Sort((("status", "text"), ("created_at", "timestamptz"))),
        "starts_at": Sort((("starts_at_key", "timestamptz"),)),
        "created_at": CREATED,
        "updated_at": UPDATED,
    },
    search="read.search_meetings",
    search_inline="t.title ILIKE %(pattern)s",
    stats={"byStatus": count_by("meeting_counts", "status")},
)
