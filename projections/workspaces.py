"""Workspaces and their API keys."""

from __future__ import annotations

from projections.changes import Projection, Table
from projections.lifecycle import Lifecycle

PROJECTION = Projection(
    name="workspaces",
    tables=(
        Table("workspaces", maps=("custom_fields",)),
        Table("api_keys", maps=("custom_fields",)),
    ),
    rules=(
        Lifecycle("workspace", "workspaces"),
        Lifecycle("api_key", "api_keys", created="issued", deleted="revoked"),
    ),
)
