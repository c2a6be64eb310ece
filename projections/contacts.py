"""Contacts: one row a contact."""

from __future__ import annotations

from projections.changes import Counts, Projection, Table
from projections.lifecycle import lifecycle

LIFE = lifecycle("contact", "contacts")

PROJECTION = Projection(
    name="contacts",
    tables=(
        Table(
            "contacts",
            maps=("custom_fields",),
            counts=Counts("contact_counts", by=("assigned_to",)),
        ),
    ),
    handlers={**LIFE, "contact.merged": LIFE["contact.updated"]},
)
