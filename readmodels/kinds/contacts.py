"""Contacts."""

from __future__ import annotations

from readmodels.spec import (
    ACCOUNT,
    ASSIGNEE,
    CREATED,
    OF_ACCOUNT,
    STAMPS,
    UPDATED,
    ListSpec,
    Sort,
    columns,
)

SPEC = ListSpec(
    plural="contacts",
    items={
        **columns("id"),
        **OF_ACCOUNT,
        **columns("name", "email", "phone", "title"),
        **STAMPS,
    },
    filters={**ACCOUNT, **ASSIGNEE},
    counts_table="contact_counts",
    counted=frozenset({"assignedTo"}),
    sorts={"name": Sort((("name_key", "text"),)), "created_at": CREATED, "updated_at": UPDATED},
    search="read.search_contacts",
    search_inline="t.name ILIKE %(pattern)s",
)
