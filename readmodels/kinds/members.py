"""Members."""

from __future__ import annotations

from readmodels.spec import CREATED, STAMPS, UPDATED, ListSpec, Sort, columns

SPEC = ListSpec(
    plural="members",
    items={
        **columns("id", "name", "email", "title"),
        **STAMPS,
    },
    filters={},
    counts_table="member_counts",
    counted=frozenset(),
    sorts={"name": Sort((("name_key", "text"),)), "created_at": CREATED, "updated_at": UPDATED},
    search="read.search_members",
    search_inline="t.name ILIKE %(pattern)s",
    base="NOT t.is_deleted",
)
