"""Proposals: one row a proposal."""

from __future__ import annotations

from projections.changes import Counts, Projection, Table
from projections.lifecycle import lifecycle

LIFE = lifecycle("proposal", "proposals", status="status")
STEPS = ("sent", "accepted", "declined", "revised")

PROJECTION = Projection(
    name="proposals",
    tables=(
        Table(
            "proposals",
            maps=("custom_fields",),
            counts=Counts("proposal_counts", by=("status", "assigned_to")),
        ),
    ),
    # A step says what it changed as every update does.
    handlers={**LIFE, **{f"proposal.{step}": LIFE["proposal.updated"] for step in STEPS}},
)
