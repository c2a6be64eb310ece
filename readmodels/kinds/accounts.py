"""The account list."""

from __future__ import annotations

from readmodels.spec import (
    ASSIGNEE,
    CREATED,
    STAMPS,
    UPDATED,
    ListSpec,
    Sort,
    columns,
    count_by,
    money,
)

OF_TYPE = "(%(type)s::text IS NULL OR type = %(type)s)"

SPEC = ListSpec(
    plural="accounts",
    items={
        **columns("id", "company", "type", "status", "priority", "next_action", "next_action_date"),
        **money("check_size", "deal_value"),
        **columns(
            "opportunity",
            "contact_count",
            "task_count",
            "meeting_count",
            "note_count",
            "open_opportunity_count",
        ),
        **STAMPS,
    },
    filters={
        "type": ("type", "text"),
        "status": ("status", "text"),
        "priority": ("priority", "text"),
        **ASSIGNEE,
    },
    counts_table="account_counts",
    counted=frozenset({"type", "status", "priority", "assignedTo"}),
    sorts={
        "company": Sort((("company_key", "text"),)),
        "status": Sort((("status", "text"), ("created_at", "timestamptz"))),
        "created_at": CREATED,
        "updated_at": UPDATED,
    },
    search="read.search_accounts",
    search_inline="""(t.company ILIKE %(pattern)s OR EXISTS (
        SELECT FROM read.contacts c WHERE c.workspace_id = t.workspace_id
           AND c.account_id = t.id AND c.name ILIKE %(pattern)s))""",
    stats={
        "byStatus": count_by("account_counts", "status", where=OF_TYPE),
        "byPriority": count_by("account_counts", "priority", where=OF_TYPE),
        "byType": count_by("account_counts", "type"),
    },
    with_contacts=True,
)
