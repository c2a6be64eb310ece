"""The list of members."""

from __future__ import annotations

from readmodels.spec import COMMON_ITEMS, COMMON_SORTS, ListSpec, Sort, columns

SPEC = ListSpec(
    plural="members",
    items={**columns("id", "name", "email", "title"), **COMMON_ITEMS},
    filters={},
    counts_table="member_counts",
    counted=frozenset(),
    sorts={"name": Sort.by(("name_key", "text")), **COMMON_SORTS},
    search_inline="t.name_folded LIKE %(pattern)s",
    base="NOT t.is_deleted",
)
