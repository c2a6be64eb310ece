"""Workspaces and the API keys that open them."""

from __future__ import annotations

from collections.abc import Iterable

from eventlog.reading import RecordedEvent
from projections.changes import Change, Projection, Put, Remove, Table
from projections.lifecycle import entity_row, lifecycle


def issued(event: RecordedEvent) -> Iterable[Change]:
    """The key opens its workspace from now on."""
    row = entity_row(event, event.data["fields"], event.occurred_at)
    return (Put("api_keys", event.stream_id, row),)


def revoked(event: RecordedEvent) -> Iterable[Change]:
    """The key opens nothing any more."""
    return (Remove("api_keys", event.stream_id),)


PROJECTION = Projection(
    name="workspaces",
    tables=(
        Table("workspaces", maps=("custom_fields",)),
        Table("api_keys", maps=("custom_fields",)),
    ),
    handlers={
        **lifecycle("workspace", "workspaces"),
        "api_key.issued": issued,
        "api_key.revoked": revoked,
    },
)
