"""The registry of aggregates and their events. Each module in `domain` defines one aggregate.

The registry imports all modules of the package: a new kind needs a new file and no entry here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from types import MappingProxyType

from eventsourcing.utils import register_topic

import domain
from domain.shared.entity import Entity, EntityEvent, RecordedAggregate


def _aggregates() -> list[type[RecordedAggregate]]:
    for module in pkgutil.iter_modules(domain.__path__, "domain."):
        importlib.import_module(module.name)
    found = [each for each in _subclasses(RecordedAggregate) if "KIND" in vars(each)]
    return sorted(found, key=lambda aggregate: aggregate.KIND)


def _subclasses(base: type[RecordedAggregate]) -> Iterable[type[RecordedAggregate]]:
    for each in base.__subclasses__():
        yield each
        yield from _subclasses(each)


def _events(aggregate: type[RecordedAggregate]) -> list[type[EntityEvent]]:
    return [
        value
        for name, value in vars(aggregate).items()
        if name != "Event" and isinstance(value, type) and issubclass(value, EntityEvent)
    ]


AGGREGATES = MappingProxyType({aggregate.KIND: aggregate for aggregate in _aggregates()})
"""All aggregates by kind: the entities, and `job`."""

KINDS = MappingProxyType(
    {kind: each for kind, each in AGGREGATES.items() if issubclass(each, Entity)}
)
"""The kinds of entity by name (`account`)."""

BY_PLURAL = MappingProxyType({entity.PLURAL: entity for entity in KINDS.values()})
"""The kinds of entity by the name of their collection on the wire (`accounts`)."""

_NUMBERS = MappingProxyType(
    {
        name: (each.KIND, each.PLURAL)
        for each in AGGREGATES.values()
        for name in (each.KIND, each.PLURAL)
    }
)


def both_numbers(name: str) -> tuple[str, ...]:
    """The singular and the plural of a kind's name, given in either; of any other name only it."""
    return _NUMBERS.get(name, (name,))


def by_either_number(names: Iterable[str]) -> dict[str, str]:
    """Each of these names of kinds, under its singular and under its plural."""
    return {form: name for name in names for form in both_numbers(name)}


EVENTS = MappingProxyType(
    {event.TOPIC: event for each in AGGREGATES.values() for event in _events(each)}
)
"""Event classes by topic, in the version that is written today."""

AGGREGATE_OF = MappingProxyType(
    {event.TOPIC: each for each in AGGREGATES.values() for event in _events(each)}
)
"""The aggregate to which each topic belongs."""

ENTITY_OF = MappingProxyType(
    {event.TOPIC: entity for entity in KINDS.values() for event in _events(entity)}
)
"""The kind of entity to which each topic belongs. Topics of jobs are left out."""

for _topic, _class in {**{e.TOPIC: e for e in AGGREGATES.values()}, **EVENTS}.items():
    register_topic(_topic, _class)
