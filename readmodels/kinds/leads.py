"""Leads."""

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

SPEC = ListSpec(
    plural="leads",
    items={
        **columns("id", "name", "status", "status_changed_at", "company", "email", "phone"),
        **columns("source"),
        **money("value"),
        **columns("next_action", "next_action_date", "notes", "sms_opt_out"),
        **columns("converted_account_id", "converted_contact_id", "converted_opportunity_id"),
        **STAMPS,
    },
    filters={"status": ("status", "text"), "source": ("source", "text"), **ASSIGNEE},
    counts_table="lead_counts",
    counted=frozenset({"status", "source", "assignedTo"}),
    sorts={
        "name": Sort((("name_key", "text"),)),
        "status": Sort((("status", "text"), ("created_at", "timestamptz"))),
        "status_changed_at": Sort((("status_changed_at", "timestamptz"),)),
        "next_action_date": Sort((("next_action_date_key", "date"),)),
        "created_at": CREATED,
        "updated_at": UPDATED,
    },
    search="read.search_leads",
    search_inline="""(t.name ILIKE %(pattern)s OR t.company ILIKE %(pattern)s
        OR t.email ILIKE %(pattern)s)""",
    stats={"byStatus": count_by("lead_counts", "status")},
)
