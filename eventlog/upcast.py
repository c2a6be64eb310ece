"""Old versions of events, made readable: one function for each step from a version to the next.

A topic is written out with its version from the second on: `account.created`, then
`account.created.v2`. To change the shape of an event, give its class the new TOPIC and add here
how data of the version before becomes data of the new one:

    @upcaster("account.created", "account.created.v2")
    def _(data): return {**data, "fields": {**data["fields"], "region": "unknown"}}

What was once written is readable for ever (tests/samples holds one of each).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

Data = dict[str, Any]
UpcastStep = Callable[[Data], Data]

_STEPS: dict[str, tuple[str, UpcastStep]] = {}


def upcaster(old: str, new: str) -> Callable[[UpcastStep], UpcastStep]:
    """Register how data of topic `old` becomes data of topic `new`. Raises where one exists."""

    def register(step: UpcastStep) -> UpcastStep:
        if old in _STEPS:
            raise ValueError(f"{old} has an upcaster already")
        _STEPS[old] = (new, step)
        return step

    return register


def upcast(topic: str, data: Data) -> tuple[str, Data]:
    """The topic and data in the version that is written today."""
    while topic in _STEPS:
        topic, step = _STEPS[topic]
        data = step(data)
    return topic, data


def upcasters_to(topics: Collection[str] | None) -> dict[str, tuple[str, UpcastStep]]:
    """By old topic, the steps that end in one of these topics; all of them for None."""
    return {
        old: step
        for old, step in sorted(_STEPS.items())
        if topics is None or _last_topic(old) in topics
    }


def _last_topic(topic: str) -> str:
    while topic in _STEPS:
        topic = _STEPS[topic][0]
    return topic
