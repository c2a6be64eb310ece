"""Proposals."""

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
    money,
)

SPEC = ListSpec(
    plural="proposals",
    items={
        **columns("id"),
        **OF_ACCOUNT,
        **columns("title", "status", "body"),
        **money("value"),
        **columns("valid_until", "opportunity_id", "sent_at", "sent_to", "answered_at"),
        **columns("decline_reason"),
        **STAMPS,
    },
    filters={**ACCOUNT, "status": ("status", "text"), **ASSIGNEE},
    counts_table="proposal_counts",
    counted=frozenset({"status", "assignedTo"}),
    sorts={
        "status": Sort((("status", "text"), ("created_at", "timestamptz"))),
        "created_at": CREATED,
        "updated_at": UPDATED,
    },
    search="read.search_proposals",
    search_inline="t.title ILIKE %(pattern)s",
    stats={"byStatus": count_by("proposal_counts", "status")},
)
