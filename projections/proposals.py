"""Proposals: one row per proposal."""

from __future__ import annotations

from projections.changes import Counts, Projection
from projections.lifecycle import entity_table, lifecycle

LIFECYCLE = lifecycle("proposal", "proposals", searched=("title",), status="status")
STEPS = ("sent", "accepted", "declined", "revised")

PROJECTION = Projection(
    name="proposals",
    tables=(entity_table("proposals", Counts("proposal_counts", by=("status", "assigned_to"))),),
    # Events of the steps list their changes as updates do.
    handlers={**LIFECYCLE, **{f"proposal.{step}": LIFECYCLE["proposal.updated"] for step in STEPS}},
)
