"""The audit trail: one narrow row per event, by which the event is found in the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import orjson

from domain.shared.kinds import EVENTS
from eventlog.reading import RecordedEvent
from projections.changes import Projection, Put, RowChange, Table

ACTIONS = {topic: event.ACTION for topic, event in EVENTS.items() if hasattr(event, "ACTION")}
"""The action of events by topic, if it differs from the topic's name."""
UNDO = "undo"
"""The action of events that undo another one."""
ACTIONS_BY_DATA = {"mergedInto": "merge", "movedTo": "move", "movedFrom": "move"}
"""The action of events whose data has one of these keys, of any topic."""
ACTION_NAMES = tuple(sorted({*ACTIONS.values(), *ACTIONS_BY_DATA.values(), UNDO}))

NO_DATA: Mapping[str, Any] = MappingProxyType({})


def action(topic: str, data: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """The action of an event in the audit trail: undo, or the one by its topic and data."""
    return UNDO if "undoesPosition" in metadata else action_of(topic, data)


def action_of(topic: str, data: Mapping[str, Any] = NO_DATA) -> str:
    """The action by topic and data: create, update, delete, restore, merge, move, …"""
    for key, name in ACTIONS_BY_DATA.items():
        if data.get(key):
            return name
    return ACTIONS.get(topic) or topic.split(".")[1]


def entry(event: RecordedEvent) -> Iterable[RowChange]:
    """Insert the entry of an event."""
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
