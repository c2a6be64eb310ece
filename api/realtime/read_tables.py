"""Whether the read tables contain an event yet."""

from __future__ import annotations

from collections.abc import Callable

from api.realtime.subscriber import PendingReady, Subscriber
from projections.engine.registry import PROJECTIONS
from readmodels.operation.checkpoints import Checkpoints


class ReadTableProgress:
    """The progress of the projections by topic. Used in the event loop only.

    A fact is ready when every projection that handles its topic has processed it.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._reached: dict[str | None, int] = {}
        """Positions by topic (None for all topics), cached until a checkpoint advances."""

    def on_advance(self, callback: Callable[[], None]) -> None:
        """Register a callback that is called whenever a checkpoint has advanced."""

        def clear_cache_and_call() -> None:
            self._reached.clear()
            callback()

        self._checkpoints.when_moved(clear_cache_and_call)

    def notify_ready(self, subscriber: Subscriber) -> None:
        """Send the subscriber `ready` for what the read tables have now, in order of position."""
        pending = subscriber.pending
        while pending and self._is_ready(pending[0]):
            subscriber.send_ready(pending.popleft())

    def _is_ready(self, pending: PendingReady) -> bool:
        topic = None if pending.fact is None else pending.fact.topic
        reached = self._reached.get(topic)
        if reached is None:
            reached = self._reached[topic] = self._position_reached(topic)
        return reached >= pending.position

    def _position_reached(self, topic: str | None) -> int:
        names = [
            each.name for each in PROJECTIONS.values() if topic is None or topic in each.topics
        ]
        return min(self._checkpoints.position_of(name) for name in names)
