"""Workspaces and their API keys."""

from __future__ import annotations

from projections.changes import Projection, Table
from projections.lifecycle import lifecycle

KEY_LIFECYCLE = lifecycle("api_key", "api_keys")

PROJECTION = Projection(
    name="workspaces",
    tables=(
        Table("workspaces", maps=("custom_fields",)),
        Table("api_keys", maps=("custom_fields",)),
    ),
    handlers={
        **lifecycle("workspace", "workspaces"),
        "api_key.issued": KEY_LIFECYCLE["api_key.created"],
        "api_key.updated": KEY_LIFECYCLE["api_key.updated"],
        "api_key.revoked": KEY_LIFECYCLE["api_key.deleted"],
    },
)
