"""Projections that fail for some entities, sometimes: what a bug in a projector looks like."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from eventlog.reading import RecordedEvent
from projections.changes import Patch, Projection, RowChange

VARIABLE = "ANNALS_CHAOS_CURSE"
"""Read by tests.support.chaos.projector alone."""
PER_MILLE = 1_000
LOTS = 20
RAISES = range(5)
REFUSED = range(5, 6)
"""Of twenty events of a cursed entity so many raise, or make a row that the database refuses. The
latter are dear: for each the batch is halved until it is found."""


class Cursed(Exception):
    """The projector cannot digest this event."""


@dataclass(frozen=True)
class Curse:
    """Which entities fail. `active` says whether they do so now."""

    seed: int
    per_mille: int
    active: bool = False

    def __str__(self) -> str:
        return f"{self.seed}:{self.per_mille}:{int(self.active)}"

    @classmethod
    def parse(cls, text: str) -> Curse:
        """What `str` made."""
        seed, per_mille, active = map(int, text.split(":"))
        return cls(seed, per_mille, bool(active))

    def is_on(self, entity_id: str) -> bool:
        """Whether it may fail at times."""
        return zlib.crc32(f"{self.seed}/{entity_id}".encode()) % PER_MILLE < self.per_mille

    def cast(self, projection: Projection) -> Projection:
        """The same projection, but it fails for these entities. Without effect while inactive."""
        if not self.active:
            return projection

        def changes(event: RecordedEvent) -> Iterable[RowChange]:
            if projection.handler(event.topic) and self.is_on(projection.entity(event)):
                lot = zlib.crc32(f"{projection.name}/{event.position}".encode()) % LOTS
                if lot in RAISES:
                    raise Cursed(f"at position {event.position}")
                if lot in REFUSED:
                    return [*projection.changes(event), _poison(projection, event)]
            return projection.changes(event)

        return Projection(
            projection.name, projection.tables, {}, every=changes, by_account=projection.by_account
        )


def _poison(projection: Projection, event: RecordedEvent) -> RowChange:
    """A change that the database refuses, of a column that later events leave as it is."""
    table = projection.tables[0]
    if table.key == "position":
        return Patch(table.name, str(event.position), {"recorded_at": "never"})
    return Patch(table.name, projection.entity(event), {"created_at": "never"})
