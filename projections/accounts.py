"""Accounts: one row per account, with counts of the entities that belong to it."""

from __future__ import annotations

from projections.changes import Counts, Projection, Table
from projections.lifecycle import Counted, Lifecycle

CONTACT_NAMES = "contact_names_folded"
COUNTED = (
    Counted("contact", "contact_count", names=("name", CONTACT_NAMES)),
    Counted("task", "task_count", unless=("status", frozenset({"done"}))),
    Counted("meeting", "meeting_count"),
    Counted("note", "note_count"),
    Counted("opportunity", "open_opportunity_count", unless=("stage", frozenset({"won", "lost"}))),
)
COUNTERS = tuple(each.counter for each in COUNTED)

PROJECTION = Projection(
    name="accounts",
    by_account=True,
    tables=(
        Table(
            "accounts",
            counters=COUNTERS,
            maps=("custom_fields", CONTACT_NAMES),
            counts=(
                Counts("account_counts", by=("type", "status", "priority", "assigned_to")),
                Counts("account_totals"),
            ),
        ),
    ),
    rules=(
        Lifecycle(
            "account",
            "accounts",
            searched=("company",),
            status="status",
            changed=("merged",),
            defaults={**dict.fromkeys(COUNTERS, 0), CONTACT_NAMES: {}},
        ),
        *COUNTED,
    ),
)
