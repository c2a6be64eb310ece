"""The list of meetings."""

from __future__ import annotations

from readmodels.spec import CREATED_AT, Sort, by_text, columns, count_by, entity_list

SPEC = entity_list(
    "meetings",
    columns("title", "status", "starts_at", "ends_at", "location", "agenda"),
    counted=by_text("status"),
    counts_table="meeting_counts",
    sorts={
        "status": Sort.by(("status", "text"), CREATED_AT),
        "starts_at": Sort.by(("starts_at_key", "timestamptz")),
    },
    search_inline="t.title_folded LIKE %(pattern)s",
    stats={"byStatus": count_by("meeting_counts", "status")},
)
