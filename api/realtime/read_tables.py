"""Which read tables serve a fact, and whether they have it."""

from __future__ import annotations

from collections.abc import Callable

from api.realtime.subscriber import Awaited, Subscriber
from projections.engine.registry import PROJECTIONS
from readmodels.checkpoints import Checkpoints


class ReadTableProgress:
    """Knows how far the projections are that read an event of a topic. Lives in the event loop.

    A projection serves a fact if it reads events of its topic: then some table of its shows it.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._reached: dict[str | None, int] = {}
        """By topic, None for all of them; known until checkpoints move."""

    def listen(self, moved: Callable[[], None]) -> None:
        """Have this called whenever checkpoints have moved."""

        def forget_and_tell() -> None:
            self._reached.clear()
            moved()

        self._checkpoints.when_moved(forget_and_tell)

    def settle(self, subscriber: Subscriber) -> None:
        """Tell it of all that it awaits and the tables have, in order of position."""
        awaited = subscriber.awaited
        while awaited and self._have(awaited[0]):
            subscriber.tell_ready(awaited.popleft())

    def _have(self, awaited: Awaited) -> bool:
        topic = None if awaited.fact is None else awaited.fact.topic
        reached = self._reached.get(topic)
        if reached is None:
            reached = self._reached[topic] = self._find(topic)
        return reached >= awaited.position

    def _find(self, topic: str | None) -> int:
        serving = [
            each.name
            for each in PROJECTIONS.values()
            if topic is None or each.handler(topic) is not None
        ]
        return min(self._checkpoints.position_of(name) for name in serving)
