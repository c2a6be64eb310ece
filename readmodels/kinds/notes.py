"""The list of notes."""

from __future__ import annotations

from readmodels.spec import columns, entity_list

SPEC = entity_list(
    "notes",
    columns("title", "body"),
    counts_table="note_counts",
    sorts={},
    search_inline="t.body_folded LIKE %(pattern)s",
)
