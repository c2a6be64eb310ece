"""The audit trail: one narrow row an event to find it by; what happened stays in the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import orjson

from domain.shared.kinds import EVENTS
from eventlog.reading import RecordedEvent
from projections.changes import Projection, Put, RowChange, Table

ACTIONS = {topic: event.ACTION for topic, event in EVENTS.items() if hasattr(event, "ACTION")}
"""By topic: what its events do, where it is not their name."""
UNDO = "undo"
"""What takes back another event, whatever it is otherwise."""
OF_DATA = {"mergedInto": "merge", "movedTo": "move", "movedFrom": "move"}
"""What it is where its data has this, whatever its topic."""
ACTION_NAMES = tuple(sorted({*ACTIONS.values(), *OF_DATA.values(), UNDO}))

NOTHING: Mapping[str, Any] = MappingProxyType({})


def action(topic: str, data: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """What the audit trail calls it: undo, or what it is by its topic and what it says."""
    return UNDO if "undoesPosition" in metadata else action_of(topic, data)


def action_of(topic: str, data: Mapping[str, Any] = NOTHING) -> str:
    """What an event does: create, update, delete, restore, status_change, merge, move, …"""
    for name, what in OF_DATA.items():
        if data.get(name):
            return what
    return ACTIONS.get(topic) or topic.split(".")[1]


def entry(event: RecordedEvent) -> Iterable[RowChange]:
    """An entry for every event there is."""
    metadata = orjson.loads(event.metadata)
    actor = metadata.get("actor", {})
    row = {
        "entity_type": event.kind,
        "entity_id": event.stream_id,
        "action": action(event.topic, event.data, metadata),
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
