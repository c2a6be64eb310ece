"""The list of contacts."""

from __future__ import annotations

from readmodels.spec import Sort, columns, entity_list

SPEC = entity_list(
    "contacts",
    columns("name", "email", "phone", "title"),
    counts_table="contact_counts",
    sorts={"name": Sort.by(("name_key", "text"))},
    search_inline="t.name_folded LIKE %(pattern)s",
)
