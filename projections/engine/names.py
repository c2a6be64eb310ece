"""The names under which tables and checkpoints are kept besides the live ones."""

from __future__ import annotations


def shadow_name(projection: str) -> str:
    """The name under which a shadow's checkpoint and ledger are kept until the swap."""
    return f"{projection}:shadow"


def shadow_schema(projection: str) -> str:
    """The schema in which a projection is rebuilt."""
    return f"read_shadow_{projection}"


def previous_name(projection: str) -> str:
    """The name under which the checkpoint from before the last swap is kept."""
    return f"{projection}:previous"


def previous_schema(projection: str) -> str:
    """The schema that keeps the tables from before the last swap."""
    return f"read_previous_{projection}"
