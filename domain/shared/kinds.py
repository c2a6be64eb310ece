"""The kinds of aggregate there are, found by looking: one module in this package defines each.

A new kind is a new file; nothing here has to be told.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from types import MappingProxyType

from eventsourcing.utils import register_topic

import domain
from domain.shared.entity import Entity, EntityEvent, Recorded


def _aggregates() -> list[type[Recorded]]:
    for module in pkgutil.iter_modules(domain.__path__, "domain."):
        importlib.import_module(module.name)
    found = [each for each in _beneath(Recorded) if "KIND" in vars(each)]
    return sorted(found, key=lambda aggregate: aggregate.KIND)


def _beneath(base: type[Recorded]) -> Iterable[type[Recorded]]:
    for each in base.__subclasses__():
        yield each
        yield from _beneath(each)


def _events(aggregate: type[Recorded]) -> list[type[EntityEvent]]:
    return [
        value
        for name, value in vars(aggregate).items()
        if name != "Event" and isinstance(value, type) and issubclass(value, EntityEvent)
    ]


AGGREGATES = MappingProxyType({aggregate.KIND: aggregate for aggregate in _aggregates()})
"""All that has a stream of events, by kind: the entities, and the jobs that work on them."""

KINDS = MappingProxyType(
    {kind: each for kind, each in AGGREGATES.items() if issubclass(each, Entity)}
)
"""The CRM's entities by kind (`account`)."""

BY_PLURAL = MappingProxyType({entity.PLURAL: entity for entity in KINDS.values()})
"""Entities by the name of their collection on the wire (`accounts`)."""

EVENTS = MappingProxyType(
    {event.TOPIC: event for each in AGGREGATES.values() for event in _events(each)}
)
"""Event classes by stored topic, in the version that is written today."""

AGGREGATE_OF = MappingProxyType(
    {event.TOPIC: each for each in AGGREGATES.values() for event in _events(each)}
)
"""The aggregate to which each topic belongs."""

ENTITY_OF = MappingProxyType(
    {event.TOPIC: entity for entity in KINDS.values() for event in _events(entity)}
)
"""The entity to which each topic belongs; topics of other aggregates are not here."""

for _topic, _class in {**{e.TOPIC: e for e in AGGREGATES.values()}, **EVENTS}.items():
    register_topic(_topic, _class)
