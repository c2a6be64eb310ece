"""States of entities: a load reads only the events after the state that is kept.

Events are never changed and a stream has no gaps, so a state that consists of committed events
stays right, and can only lack the newest events. The process keeps it; nothing is stored. The load
reads the last of its events again, and drops a state that the log does not have, because the
database was replaced by a backup.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any
from uuid import UUID

import orjson

from domain.shared.entity import Entity

FOLDED_VERSION_MIN = 8
"""Shorter streams are read as a whole, which takes no longer."""
KEPT_AFTER_EVENTS = 5
"""A state is replaced when at least this many events were read after it."""
DECIDED_VERSION_MIN = 3
"""Shorter streams are not kept after a command, so that new entities, which may never be changed,
do not replace the states of others."""
KEPT_MAX = 2_000
"""Maximum number of states. One of an account takes some 4 kB."""


class EntityCache:
    """Keeps the most recently used states. Thread-safe."""

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._states: OrderedDict[tuple[UUID, UUID], Entity] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, workspace_id: UUID, entity_id: UUID) -> Entity | None:
        """Return the state that is kept, which may lack the newest events.

        Others have it too: the caller changes a copy of it only (`copied`).
        """
        key = (workspace_id, entity_id)
        with self._lock:
            entity = self._states.get(key)
            if entity is None:
                return None
            self._states.move_to_end(key)
            return entity

    def keep_folded(self, workspace_id: UUID, entity: Any, events: int) -> None:
        """Keep the state of an entity, folded from committed events, if that saves reading.

        events: how many events the load has read.
        """
        if not isinstance(entity, Entity) or entity.version < FOLDED_VERSION_MIN:
            return
        if events >= KEPT_AFTER_EVENTS:
            self._keep(workspace_id, entity)

    def keep_decided(self, workspace_id: UUID, entity: Entity) -> None:
        """Keep the state of an entity after a command whose events are committed."""
        if entity.version >= DECIDED_VERSION_MIN:
            self._keep(workspace_id, entity)

    def drop(self, workspace_id: UUID, entity_id: UUID) -> None:
        """Drop a state that the log does not have."""
        with self._lock:
            self._states.pop((workspace_id, entity_id), None)

    def _keep(self, workspace_id: UUID, entity: Entity) -> None:
        key = (workspace_id, entity.id)
        kept = copied(entity)
        with self._lock:
            self._states[key] = kept
            self._states.move_to_end(key)
            if len(self._states) > self._kept_max:
                self._states.popitem(last=False)


def copied(entity: Entity) -> Entity:
    """Return a copy of an entity that has no pending events."""
    assert not entity.pending_events, "only what is recorded is kept"
    twin = object.__new__(type(entity))  # copy.copy takes four times as long
    twin.__dict__.update(entity.__dict__, _pending_events=[])
    twin.values = orjson.loads(orjson.dumps(entity.values))  # the only part that can change
    return twin
