"""The list of proposals."""

from __future__ import annotations

from readmodels.spec import CREATED_AT, Sort, by_text, columns, count_by, entity_list, money

SPEC = entity_list(
    "proposals",
    {
        **columns("title", "status", "body"),
        **money("value"),
        **columns("valid_until", "opportunity_id", "sent_at", "sent_to", "answered_at"),
        **columns("decline_reason"),
    },
    counted=by_text("status"),
    counts_table="proposal_counts",
    sorts={"status": Sort.by(("status", "text"), CREATED_AT)},
    search_inline="t.title_folded LIKE %(pattern)s",
    stats={"byStatus": count_by("proposal_counts", "status")},
)
