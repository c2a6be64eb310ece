"""The audit trail: one narrow row an event to find it by; what happened stays in the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import orjson

from domain.kinds import EVENTS
from eventlog.reading import RecordedEvent
from projections.changes import Change, Projection, Put, Table

ACTIONS = {topic: event.ACTION for topic, event in EVENTS.items() if hasattr(event, "ACTION")}
"""By topic: what its events do, where it is not their name."""
UNDO = "undo"
"""What takes back another event, whatever it is otherwise."""
ACTION_NAMES = tuple(sorted({*ACTIONS.values(), UNDO}))


def action(topic: str, metadata: Mapping[str, Any]) -> str:
    """What the audit trail calls it: undo, or what it is by its topic."""
    return UNDO if "undoesPosition" in metadata else action_of(topic)


@cache
def action_of(topic: str) -> str:
    """What an event of this topic does: create, update, delete, restore or status_change."""
    return ACTIONS.get(topic) or topic.split(".")[1]


def entry(event: RecordedEvent) -> Iterable[Change]:
    """An entry for every event there is."""
    metadata = orjson.loads(event.metadata)
    actor = metadata.get("actor", {})
    row = {
        "entity_type": event.kind,
        "entity_id": event.stream_id,
        "action": action(event.topic, metadata),
        "actor_type": actor.get("type"),
        "actor_id": actor.get("id"),
        "command_id": metadata.get("commandId"),
        "occurred_at": event.occurred_at,
        "recorded_at": event.recorded_at,
    }
    return (Put("audit", str(event.position), row),)


PROJECTION = Projection(
    name="audit",
    tables=(Table("audit", key="position", append_only=True),),
    handlers={},
    every=entry,
)
