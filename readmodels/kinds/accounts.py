"""The list of accounts, with the counts of the entities that belong to each."""

from __future__ import annotations

from readmodels.spec import CREATED_AT, Sort, by_text, columns, count_by, entity_list, money

OF_TYPE = "(%(type)s::text IS NULL OR type = %(type)s)"

SPEC = entity_list(
    "accounts",
    {
        **columns("company", "type", "status", "priority", "next_action", "next_action_date"),
        **money("check_size", "deal_value"),
        **columns("opportunity", "contact_count", "task_count", "meeting_count", "note_count"),
        **columns("open_opportunity_count"),
    },
    of_account=False,
    counted=by_text("type", "status", "priority"),
    counts_table="account_counts",
    totals_table="account_totals",
    scattered=frozenset({"priority"}),
    sorts={
        "company": Sort.by(("company_key", "text")),
        "status": Sort.by(("status", "text"), CREATED_AT),
    },
    joins_texts=True,
    search_inline="t.texts LIKE %(pattern)s",
    stats={
        "byStatus": count_by("account_counts", "status", where=OF_TYPE),
        "byPriority": count_by("account_counts", "priority", where=OF_TYPE),
        "byType": count_by("account_counts", "type"),
    },
    with_contacts=True,
)
