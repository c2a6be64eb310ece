"""Upcasters: one function for each step from a version of an event to the next.

From the second version on, a topic contains its version: `account.created`, then
`account.created.v2`. To change the shape of an event, give its class the new TOPIC and add a
function here that converts the data of the previous version:

    @upcaster("account.created", "account.created.v2")
    def _(data): return {**data, "fields": {**data["fields"], "region": "unknown"}}

Every version ever written must stay readable (tests/samples has one event of each).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

Data = dict[str, Any]
UpcastStep = Callable[[Data], Data]

_STEPS: dict[str, tuple[str, UpcastStep]] = {}


def upcaster(old: str, new: str) -> Callable[[UpcastStep], UpcastStep]:
    """Register a conversion between two topics. Raises `ValueError` if `old` has one already."""

    def register(step: UpcastStep) -> UpcastStep:
        if old in _STEPS:
            raise ValueError(f"{old} has an upcaster already")
        _STEPS[old] = (new, step)
        return step

    return register


def upcast(topic: str, data: Data) -> tuple[str, Data]:
    """Convert an event to the version that is written today."""
    while topic in _STEPS:
        topic, step = _STEPS[topic]
        data = step(data)
    return topic, data


def upcasts_of(topic: str) -> tuple[str, tuple[UpcastStep, ...]]:
    """The topic that is written today for events of this one, and the steps that convert them."""
    steps = []
    while topic in _STEPS:
        topic, step = _STEPS[topic]
        steps.append(step)
    return topic, tuple(steps)


def upcasters_to(topics: Collection[str]) -> dict[str, tuple[str, UpcastStep]]:
    """The steps that lead to one of these topics, by old topic."""
    return {old: step for old, step in sorted(_STEPS.items()) if upcasts_of(old)[0] in topics}
