"""Maps the domain's events to rows of the log and back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from eventsourcing.domain import AggregateCreated
from eventsourcing.persistence import (
    Mapper,
    MapperDeserialisationError,
    Notification,
    StoredEvent,
    Transcoder,
)
from pydantic.alias_generators import to_camel, to_snake

from domain.shared.entity import EntityEvent
from domain.shared.kinds import AGGREGATE_OF, EVENTS
from eventlog.upcast import upcast

COLUMNS = frozenset(
    {
        "originator_id",
        "originator_version",
        "originator_topic",
        "timestamp",
        "account_id",
        "workspace_id",
    }
)
"""Attributes of an event that are left out of `data`: the row or its topic has them."""

IDS = frozenset({"deleted_with", "merged_into", "moved_to", "moved_from", "other"})
"""Attributes whose values are ids."""


@dataclass(frozen=True)
class LogEvent(StoredEvent):
    """A stored event with the columns that the library's class lacks."""

    occurred_at: datetime
    account_id: UUID | None
    workspace_id: UUID | None
    """Set when read. When the event is written, the session's scope has it."""


@dataclass(frozen=True)
class LogNotification(LogEvent, Notification):
    """A stored event with its position, as the library's notification log returns it."""


class OrjsonTranscoder(Transcoder):
    """JSON by orjson. Event data holds JSON values and UUIDs only."""

    def encode(self, obj: Any) -> bytes:
        return orjson.dumps(obj)

    def decode(self, data: bytes) -> Any:
        return orjson.loads(data)


class EventMapper(Mapper[UUID]):
    """Maps domain events to rows and back, and upcasts older versions."""

    def to_stored_event(self, domain_event: Any) -> LogEvent:
        event: EntityEvent = domain_event
        data = {
            _wire_name(name): value
            for name, value in vars(event).items()
            if name not in COLUMNS and not (value is None and name in event.OMITTED_IF_NONE)
        }
        return LogEvent(
            originator_id=event.originator_id,
            originator_version=event.originator_version,
            topic=event.TOPIC,
            state=self.transcoder.encode(data),
            occurred_at=event.timestamp,
            account_id=event.account_id,
            workspace_id=None,
        )

    def to_domain_event(self, stored_event: StoredEvent) -> EntityEvent:
        assert isinstance(stored_event, LogEvent)
        topic, data = upcast(stored_event.topic, self.transcoder.decode(stored_event.state))
        event_class = EVENTS.get(topic)
        if event_class is None:
            raise MapperDeserialisationError(f"no event class for topic {topic!r}")
        state = {_attribute_name(name): value for name, value in data.items()}
        state["originator_id"] = stored_event.originator_id
        state["originator_version"] = stored_event.originator_version
        state["timestamp"] = stored_event.occurred_at
        state["account_id"] = stored_event.account_id
        if issubclass(event_class, AggregateCreated):
            state["originator_topic"] = AGGREGATE_OF[topic].TOPIC
            state["workspace_id"] = stored_event.workspace_id
        for name in IDS & state.keys():
            state[name] = state[name] and UUID(state[name])
        event = object.__new__(event_class)
        event.__dict__.update(state)
        return event


_WIRE_NAMES: dict[str, str] = {}
_ATTRIBUTES: dict[str, str] = {}


def _wire_name(attribute: str) -> str:
    name = _WIRE_NAMES.get(attribute)
    if name is None:
        name = _WIRE_NAMES[attribute] = to_camel(attribute)
        _ATTRIBUTES[name] = attribute
    return name


def _attribute_name(wire: str) -> str:
    name = _ATTRIBUTES.get(wire)
    if name is None:
        name = _ATTRIBUTES[wire] = to_snake(wire)
    return name
