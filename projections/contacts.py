"""Contacts: one row per contact."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import Lifecycle, entity_table

PROJECTION = Projection(
    name="contacts",
    tables=(entity_table("contacts", Counts("contact_counts", by=("assigned_to",))),),
    rules=(Lifecycle("contact", "contacts", searched=("name",), changed=("merged",)),),
)
