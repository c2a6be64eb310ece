"""The list of appointments."""

from __future__ import annotations

from readmodels.spec import CREATED_AT, Sort, by_text, columns, count_by, entity_list, member_name

SPEC = entity_list(
    "appointments",
    {
        **columns("title", "status", "member_id"),
        "memberName": member_name("member_id"),
        **columns("starts_at", "ends_at", "lead_id", "contact_id", "location", "notes"),
        **columns("allow_overlap", "confirmed_at", "confirmed_by", "confirmation_notes"),
        **columns("cancel_reason"),
    },
    filters={"leadId": ("lead_id", "uuid")},
    counted={"memberId": ("member_id", "uuid"), **by_text("status")},
    counts_table="appointment_counts",
    scattered=frozenset({"memberId"}),
    sorts={
        "status": Sort.by(("status", "text"), CREATED_AT),
        "starts_at": Sort.by(("starts_at", "timestamptz")),
    },
    search_inline="t.title_folded LIKE %(pattern)s",
    stats={"byStatus": count_by("appointment_counts", "status")},
)
