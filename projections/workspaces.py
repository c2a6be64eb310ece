"""Workspaces and the API keys that open them."""

from __future__ import annotations

from projections.changes import Projection, Table
from projections.lifecycle import lifecycle

KEY = lifecycle("api_key", "api_keys")

PROJECTION = Projection(
    name="workspaces",
    tables=(
        Table("workspaces", maps=("custom_fields",)),
        Table("api_keys", maps=("custom_fields",)),
    ),
    handlers={
        **lifecycle("workspace", "workspaces"),
        "api_key.issued": KEY["api_key.created"],
        "api_key.updated": KEY["api_key.updated"],
        "api_key.revoked": KEY["api_key.deleted"],
    },
)
