"""Entities that a projection parked after an error, by position; all others are kept up to date."""

from __future__ import annotations

from dataclasses import dataclass

from eventlog.connections import Connection
from eventlog.libpq.batches import BatchStatement

ERROR_MAX_CHARS = 500

SELECT_PARKED = """
SELECT workspace_id, entity_id, position, events, error FROM projection_parked
 WHERE projection = %s ORDER BY position
"""

PARK = b"""
INSERT INTO projection_parked AS p (projection, workspace_id, entity_id, position, events, error)
VALUES (%s, %s, %s, %s, %s, %s)
    ON CONFLICT (projection, workspace_id, entity_id)
    DO UPDATE SET events = p.events + excluded.events
"""

UNPARK = b"""
DELETE FROM projection_parked WHERE projection = %s AND workspace_id = %s AND entity_id = %s
"""

EntityKey = tuple[str, str]
"""Workspace id and entity id, as text."""


@dataclass(slots=True)
class ParkedEntity:
    """An entity of a projection that waits for a fix."""

    workspace_id: str
    entity_id: str
    position: int
    """The position of the first event that is not in the rows."""
    events: int
    """The number of events that wait."""
    error: str

    @property
    def key(self) -> EntityKey:
        """Workspace and entity id."""
        return (self.workspace_id, self.entity_id)


def load_parked(connection: Connection, projection: str) -> dict[EntityKey, ParkedEntity]:
    """Load the parked entities of a projection."""
    rows = connection.execute(SELECT_PARKED, (projection,)).fetchall()
    return {(row[0], row[1]): ParkedEntity(*row) for row in rows}


def parking(projection: str, entry: ParkedEntity) -> BatchStatement:
    """The statement that parks an entity, or adds to the events of one that is parked."""
    return PARK, (
        projection,
        entry.workspace_id,
        entry.entity_id,
        entry.position,
        entry.events,
        entry.error[:ERROR_MAX_CHARS].replace("\x00", ""),
    )


def park(connection: Connection, projection: str, entry: ParkedEntity) -> None:
    """Park an entity, or add to the events of one that is parked."""
    connection.execute(*parking(projection, entry))


def unpark(connection: Connection, projection: str, entity: EntityKey) -> None:
    """Remove an entity whose rows hold all of its events again."""
    connection.execute(UNPARK, (projection, *entity))
