"""The list of leads."""

from __future__ import annotations

from readmodels.spec import CREATED_AT, Sort, by_text, columns, count_by, entity_list, money

SPEC = entity_list(
    "leads",
    {
        **columns("name", "status", "status_changed_at", "company", "email", "phone", "source"),
        **money("value"),
        **columns("next_action", "next_action_date", "notes", "sms_opt_out"),
        **columns("converted_account_id", "converted_contact_id", "converted_opportunity_id"),
    },
    of_account=False,
    counted=by_text("status", "source"),
    counts_table="lead_counts",
    sorts={
        "name": Sort.by(("name_key", "text")),
        "status": Sort.by(("status", "text"), CREATED_AT),
        "status_changed_at": Sort.by(("status_changed_at", "timestamptz")),
        "next_action_date": Sort.by(("next_action_date_key", "date")),
    },
    search_inline="""(t.name_folded LIKE %(pattern)s OR t.company_folded LIKE %(pattern)s
        OR t.email_folded LIKE %(pattern)s)""",
    stats={"byStatus": count_by("lead_counts", "status")},
)
