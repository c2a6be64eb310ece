"""Contacts: one row per contact."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import entity_table, lifecycle

LIFECYCLE = lifecycle("contact", "contacts", searched=("name",))

PROJECTION = Projection(
    name="contacts",
    tables=(entity_table("contacts", Counts("contact_counts", by=("assigned_to",))),),
    handlers={**LIFECYCLE, "contact.merged": LIFECYCLE["contact.updated"]},
)
