"""Projections that fail for some events of some entities, as a bug in a projector would."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from eventlog.reading import RecordedEvent
from projections.changes import Patch, Projection, RowChange

FAULTS_VARIABLE = "ANNALS_CHAOS_FAULTS"
"""Read by tests.support.chaos.projector alone."""
PER_MILLE = 1_000
DRAWS = 20
RAISES = range(5)
REFUSED = range(5, 6)
"""Which draws raise, and which make a row that the database refuses. The latter are rare because
they are expensive: the engine halves the batch until it has found the event."""


class InjectedFailure(Exception):
    """Raised for an event that the faulty projection refuses to handle."""


@dataclass(frozen=True)
class ProjectionFaults:
    """The choice of entities that fail, and whether they fail now (`active`)."""

    seed: int
    per_mille: int
    active: bool = False

    def __str__(self) -> str:
        return f"{self.seed}:{self.per_mille}:{int(self.active)}"

    @classmethod
    def parse(cls, text: str) -> ProjectionFaults:
        """Parse the output of `str`."""
        seed, per_mille, active = map(int, text.split(":"))
        return cls(seed, per_mille, bool(active))

    def affects(self, entity_id: str) -> bool:
        """Whether the entity is one of those that fail while faults are active."""
        return zlib.crc32(f"{self.seed}/{entity_id}".encode()) % PER_MILLE < self.per_mille

    def wrap(self, projection: Projection) -> Projection:
        """Return the projection, failing for these entities if faults are active."""
        if not self.active:
            return projection

        def changes(event: RecordedEvent) -> Iterable[RowChange]:
            if projection.handler(event.topic) and self.affects(projection.entity(event)):
                draw = zlib.crc32(f"{projection.name}/{event.position}".encode()) % DRAWS
                if draw in RAISES:
                    raise InjectedFailure(f"at position {event.position}")
                if draw in REFUSED:
                    return [*projection.changes(event), _poison(projection, event)]
            return projection.changes(event)

        return Projection(
            projection.name, projection.tables, {}, every=changes, by_account=projection.by_account
        )


def _poison(projection: Projection, event: RecordedEvent) -> RowChange:
    """Return a change that the database refuses, of a column that later events leave alone."""
    table = projection.tables[0]
    if table.key == "position":
        return Patch(table.name, str(event.position), {"recorded_at": "never"})
    return Patch(table.name, projection.entity(event), {"created_at": "never"})
