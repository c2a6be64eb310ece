"""Projections that fail for some events of some entities, as a bug in a projector would."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

from projections.changes import Projection, Row
from tests.support.watched_projection import Watched, watched

FAULTS_VARIABLE = "ANNALS_CHAOS_FAULTS"
"""Read by tests.support.chaos.projector alone."""
PER_MILLE = 1_000
DRAWS = 20
RAISES = range(5)
REFUSED = range(5, 6)
"""Which draws raise, and which make a row that the database refuses. The latter are rare because
they are expensive: the engine halves the batch until it has found the event."""

REFUSED_ROW = {"created_at": "never"}
"""The database refuses it, and later events leave the column alone."""

Fault = Literal["raises", "refused"]


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

    def fault(self, projection: str, topic: str, stream: str, version: int) -> Fault | None:
        """What an event of an affected entity does in a projection."""
        occurrence = f"{self.seed}/{projection}/{topic}/{stream}/{version}"
        draw = zlib.crc32(occurrence.encode()) % DRAWS
        if draw in RAISES:
            return "raises"
        return "refused" if draw in REFUSED else None

    def wrap(self, projection: Projection) -> Projection:
        """Return the projection, failing for these entities if faults are active."""
        if not self.active:
            return projection

        def fail(event: Watched) -> Row | None:
            _, entity = (projection.by_account and event.account) or event.entity
            if not self.affects(entity):
                return None
            _, stream = event.entity
            fault = self.fault(projection.name, event.topic, stream, event.version)
            if fault == "raises":
                raise InjectedFailure(f"at version {event.version} of {stream}")
            return REFUSED_ROW if fault == "refused" else None

        return watched(projection, fail)
