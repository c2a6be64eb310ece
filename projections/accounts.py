"""Accounts: one row per account, with counts of the entities that belong to it."""

from __future__ import annotations

from projections.changes import Counts, Projection, Table
from projections.lifecycle import counted, lifecycle

COUNTERS = (
    "contact_count",
    "task_count",
    "meeting_count",
    "note_count",
    "open_opportunity_count",
)

LIFECYCLE = lifecycle(
    "account",
    "accounts",
    searched=("company",),
    status="status",
    defaults=dict.fromkeys(COUNTERS, 0),
)

PROJECTION = Projection(
    name="accounts",
    by_account=True,
    tables=(
        Table(
            "accounts",
            counters=COUNTERS,
            maps=("custom_fields",),
            counts=Counts("account_counts", by=("type", "status", "priority", "assigned_to")),
        ),
    ),
    handlers={
        **LIFECYCLE,
        "account.merged": LIFECYCLE["account.updated"],
        **counted("contact", "accounts", "contact_count", counts=lambda _: True),
        **counted(
            "task", "accounts", "task_count", counts=lambda fields: fields["status"] != "done"
        ),
        **counted("meeting", "accounts", "meeting_count", counts=lambda _: True),
        **counted("note", "accounts", "note_count", counts=lambda _: True),
        **counted(
            "opportunity",
            "accounts",
            "open_opportunity_count",
            counts=lambda fields: fields["stage"] not in {"won", "lost"},
        ),
    },
)
