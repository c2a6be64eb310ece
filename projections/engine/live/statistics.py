"""Statistics of applied batches, by size and duration, added up in the database.

One sum covers all projectors, however many run and however often they restart, so metrics need not
find their processes.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field

from eventlog.connections import Connection

EVENTS_BOUNDS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the buckets of a histogram; one more bucket lies above the last."""

ADD_TOTALS = """
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
class BatchTotals:
    """Number, events and seconds of batches, and their histograms."""

    batches: int = 0
    events: int = 0
    seconds: float = 0.0
    by_events: list[int] = field(default_factory=lambda: [0] * (len(EVENTS_BOUNDS) + 1))
    by_seconds: list[int] = field(default_factory=lambda: [0] * (len(SECONDS_BOUNDS) + 1))

    def add(self, other: BatchTotals) -> None:
        """Add other totals to these."""
        self.batches += other.batches
        self.events += other.events
        self.seconds += other.seconds
        self.by_events = [a + b for a, b in zip(self.by_events, other.by_events, strict=True)]
        self.by_seconds = [a + b for a, b in zip(self.by_seconds, other.by_seconds, strict=True)]


class WorkStatistics:
    """Counts batches as they are applied, and adds them to the database on `flush`. Thread-safe."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._totals = BatchTotals()

    def note(self, events: int, seconds: float) -> None:
        """Count an applied batch. Takes about a microsecond."""
        with self._lock:
            self._totals.batches += 1
            self._totals.events += events
            self._totals.seconds += seconds
            self._totals.by_events[bisect_left(EVENTS_BOUNDS, events)] += 1
            self._totals.by_seconds[bisect_left(SECONDS_BOUNDS, seconds)] += 1

    def flush(self, connection: Connection) -> BatchTotals:
        """Add the counts to the database and return them. If that fails, they are kept."""
        with self._lock:
            taken, self._totals = self._totals, BatchTotals()
        if not taken.batches:
            return taken
        try:
            connection.execute(
                ADD_TOTALS,
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
                self._totals.add(taken)
            raise
        return taken
