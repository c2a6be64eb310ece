"""The kinds of entity there are, found by looking: one module in this package defines each.

A new kind is a new file; nothing here has to be told.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import MappingProxyType

from eventsourcing.utils import register_topic

import domain
from domain.entity import Entity, EntityEvent


def _entities() -> list[type[Entity]]:
    for module in pkgutil.iter_modules(domain.__path__, "domain."):
        importlib.import_module(module.name)
    return sorted(Entity.__subclasses__(), key=lambda entity: entity.KIND)


def _events(entity: type[Entity]) -> list[type[EntityEvent]]:
    return [
        value
        for name, value in vars(entity).items()
        if name != "Event" and isinstance(value, type) and issubclass(value, EntityEvent)
    ]


KINDS = MappingProxyType({entity.KIND: entity for entity in _entities()})
"""Aggregates by kind (`account`)."""

BY_PLURAL = MappingProxyType({entity.PLURAL: entity for entity in KINDS.values()})
"""Aggregates by the name of their collection on the wire (`accounts`)."""

EVENTS = MappingProxyType(
    {event.TOPIC: event for entity in KINDS.values() for event in _events(entity)}
)
"""Event classes by stored topic, in the version that is written today."""

ENTITY_OF = MappingProxyType(
    {event.TOPIC: entity for entity in KINDS.values() for event in _events(entity)}
)
"""The aggregate to which each topic belongs."""

for _topic, _class in {**{e.TOPIC: e for e in KINDS.values()}, **EVENTS}.items():
    register_topic(_topic, _class)
