"""Find events together with their position, metadata and time of recording, for undo.

It works in a transaction of the log (`EventLog.transaction`), and so in one workspace.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from eventsourcing.persistence import Mapper

from domain.shared.entity import EntityEvent
from eventlog.connections import Connection
from eventlog.reading.entities import ABSORBED
from eventlog.store.mapper import LogEvent

COLUMNS = """
e.position, e.workspace_id, e.stream_id, e.stream_version, e.topic, e.data, e.metadata,
e.occurred_at, e.recorded_at, e.account_id
"""

AT_POSITIONS = f"""
SELECT {COLUMNS} FROM events AS e
 WHERE e.workspace_id = %(workspace)s AND e.position = ANY(%(positions)s::bigint[])
 ORDER BY e.position
"""

WHOLE_STREAMS = f"""
SELECT {COLUMNS} FROM events AS e
 WHERE e.workspace_id = %(workspace)s AND e.stream_id = ANY(%(streams)s::uuid[])
 ORDER BY e.stream_id, e.stream_version
"""

# The children of an account are deleted before it, but after its previous event. They are restored
# after it, and they have no event in between.
DELETED_WITH = f"""
WITH RECURSIVE {ABSORBED}
SELECT e.position FROM absorbed AS o
  JOIN events AS c ON c.account_id = o.id AND c.stream_version = 1
  JOIN events AS e ON e.stream_id = c.stream_id
 WHERE c.workspace_id = %(workspace)s
   AND e.workspace_id = c.workspace_id AND e.position < %(position)s
   AND e.data->>'deletedWith' = %(account)s::text
   AND e.position > (SELECT position FROM events
                      WHERE stream_id = %(account)s AND workspace_id = %(workspace)s
                        AND stream_version = %(version)s - 1)
"""
RESTORED_WITH = f"""
WITH RECURSIVE {ABSORBED}
SELECT min(e.position) FROM absorbed AS o
  JOIN events AS c ON c.account_id = o.id AND c.stream_version = 1
  JOIN events AS e ON e.stream_id = c.stream_id
  JOIN events AS b ON b.stream_id = e.stream_id AND b.stream_version = e.stream_version - 1
 WHERE c.workspace_id = %(workspace)s
   AND e.workspace_id = c.workspace_id AND e.position > %(position)s
   AND b.workspace_id = c.workspace_id AND b.position < %(position)s
   AND b.data->>'deletedWith' = %(account)s::text
 GROUP BY e.stream_id
"""


@dataclass(frozen=True)
class TracedEvent:
    """An event with what the log recorded about it."""

    position: int
    event: EntityEvent
    metadata: dict[str, Any]
    recorded_at: datetime

    @property
    def stream_id(self) -> UUID:
        """The entity's id."""
        return self.event.originator_id

    @property
    def version(self) -> int:
        """The version that the event gave the entity."""
        return self.event.originator_version


class EventSearch:
    """Finds events of a workspace."""

    def __init__(self, connection: Connection, mapper: Mapper[UUID], workspace_id: UUID) -> None:
        self._connection = connection
        self._mapper = mapper
        self._workspace_id = workspace_id

    def find(self, positions: Collection[int]) -> list[TracedEvent]:
        """The events at these positions, in order; a position without an event is left out."""
        return self._events(AT_POSITIONS, positions=list(positions))

    def load_streams(self, ids: Collection[UUID]) -> dict[UUID, list[TracedEvent]]:
        """All events of these entities, by entity and in order of version."""
        found: dict[UUID, list[TracedEvent]] = {each: [] for each in ids}
        for event in self._events(WHOLE_STREAMS, streams=list(ids)):
            found[event.stream_id].append(event)
        return found

    def find_deleted_with(self, deletion: TracedEvent) -> list[int]:
        """Positions of the events that deleted the children of an account together with it."""
        return self._positions(DELETED_WITH, deletion)

    def find_restored_with(self, restoration: TracedEvent) -> list[int]:
        """Positions of the events that restored the children of an account together with it."""
        return self._positions(RESTORED_WITH, restoration)

    def _positions(self, statement: str, cause: TracedEvent) -> list[int]:
        parameters = {
            "workspace": self._workspace_id,
            "account": cause.stream_id,
            "accounts": [cause.stream_id],
            "position": cause.position,
            "version": cause.version,
        }
        return [row[0] for row in self._connection.execute(statement, parameters)]

    def _events(self, statement: str, **parameters: Any) -> list[TracedEvent]:
        rows = self._connection.execute(statement, {"workspace": self._workspace_id, **parameters})
        return [self._traced(row) for row in rows]

    def _traced(self, row: tuple[Any, ...]) -> TracedEvent:
        position, workspace, stream, version, topic, data, metadata, occurred, recorded, account = (
            row
        )
        stored = LogEvent(
            originator_id=stream,
            originator_version=version,
            topic=topic,
            state=data,
            occurred_at=occurred,
            account_id=account,
            workspace_id=workspace,
        )
        event: Any = self._mapper.to_domain_event(stored)
        return TracedEvent(position, event, orjson.loads(metadata), recorded)
