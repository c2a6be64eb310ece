"""How much projectors have done: batches by size and by duration, added up in the database.

There and not in each process: one sum over all projectors, however many there are and however
often they were started again, and nobody has to find out where they run.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field

from eventlog.connections import Connection

EVENTS_BOUNDS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the classes of a histogram; one more class is above all of them."""

ADD = """
INSERT INTO projector_work AS w
       (source, batches, events, seconds, batches_by_events, batches_by_seconds)
VALUES (%s, %s, %s, %s, %s, %s)
    ON CONFLICT (source) DO UPDATE
   SET batches = w.batches + excluded.batches,
       events = w.events + excluded.events,
       seconds = w.seconds + excluded.seconds,
       batches_by_events = ARRAY(
           SELECT coalesce(a, 0) + coalesce(b, 0)
             FROM unnest(w.batches_by_events, excluded.batches_by_events)
                  WITH ORDINALITY AS t(a, b, n) ORDER BY n),
       batches_by_seconds = ARRAY(
           SELECT coalesce(a, 0) + coalesce(b, 0)
             FROM unnest(w.batches_by_seconds, excluded.batches_by_seconds)
                  WITH ORDINALITY AS t(a, b, n) ORDER BY n)
"""


@dataclass
class Sum:
    """Batches added up."""

    batches: int = 0
    events: int = 0
    seconds: float = 0.0
    by_events: list[int] = field(default_factory=lambda: [0] * (len(EVENTS_BOUNDS) + 1))
    by_seconds: list[int] = field(default_factory=lambda: [0] * (len(SECONDS_BOUNDS) + 1))

    def add(self, other: Sum) -> None:
        """Add what another one holds."""
        self.batches += other.batches
        self.events += other.events
        self.seconds += other.seconds
        self.by_events = [a + b for a, b in zip(self.by_events, other.by_events, strict=True)]
        self.by_seconds = [a + b for a, b in zip(self.by_seconds, other.by_seconds, strict=True)]


class WorkStatistics:
    """Collects batches as they are applied, and writes them down now and then. Thread-safe."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._sum = Sum()

    def note(self, events: int, seconds: float) -> None:
        """A batch was applied. Costs a microsecond."""
        with self._lock:
            self._sum.batches += 1
            self._sum.events += events
            self._sum.seconds += seconds
            self._sum.by_events[bisect_left(EVENTS_BOUNDS, events)] += 1
            self._sum.by_seconds[bisect_left(SECONDS_BOUNDS, seconds)] += 1

    def flush(self, connection: Connection) -> Sum:
        """Add what was collected to the database; returns it. What fails is kept for later."""
        with self._lock:
            taken, self._sum = self._sum, Sum()
        if not taken.batches:
            return taken
        try:
            connection.execute(
                ADD,
                (
                    self._source,
                    taken.batches,
                    taken.events,
                    taken.seconds,
                    taken.by_events,
                    taken.by_seconds,
                ),
            )
        except BaseException:
            with self._lock:
                self._sum.add(taken)
            raise
        return taken
