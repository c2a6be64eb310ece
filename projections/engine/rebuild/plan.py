"""The plan of a rebuild: how many events it reads, and how long it will take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventlog.connections import Connection, follow_connection
from eventlog.reading.counts import count_events
from projections.engine.install import READ_SCHEMA
from projections.engine.registry import PROJECTIONS, version

EVENTS_PER_S_DEFAULT = 40_000
"""The rate assumed before any rebuild was measured."""

TABLE_BYTES = "SELECT coalesce(pg_total_relation_size(to_regclass(%s)), 0)"
MEASURED_RATE = """
SELECT coalesce((
    SELECT total / greatest(extract(epoch FROM ended_at - started_at), 0.001)
      FROM projection_rebuilds
     WHERE projection = %s AND state = 'done' AND total > 10000
     ORDER BY id DESC LIMIT 1), %s)::float
"""


@dataclass(frozen=True)
class RebuildPlan:
    """What a rebuild would read and replace, in events, seconds and bytes of the live tables."""

    projection: str
    events: int
    seconds: float
    bytes: int
    live_version: str
    new_version: str

    @property
    def code_changed(self) -> bool:
        """Whether the rebuilt rows may differ from the live ones."""
        return self.live_version != self.new_version


def plan(url: str, name: str, definition: str) -> RebuildPlan:
    """Plan the rebuild of a projection, at the rate of the last rebuild that was measured."""
    with follow_connection(url, application_name="annals-rebuild") as connection:
        projection = PROJECTIONS[name]
        events = count_events(connection)
        rate = fetch_value(connection, MEASURED_RATE, name, EVENTS_PER_S_DEFAULT)
        size = sum(
            fetch_value(connection, TABLE_BYTES, f"{READ_SCHEMA}.{table.name}")
            for table in projection.tables
        )
        live = fetch_value(connection, "SELECT version FROM projections WHERE name = %s", name)
    return RebuildPlan(name, events, events / rate, size, live, version(name, definition))


def fetch_value(connection: Connection, statement: str, *parameters: object) -> Any:
    """The first column of a statement's first row; None if there is no row."""
    row = connection.execute(statement.encode(), parameters).fetchone()
    return row[0] if row else None
