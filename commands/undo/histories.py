"""Histories of the entities that an undo concerns: all events, and which of them are undone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

from domain.shared.entity import Entity
from eventlog.store.log import evolve
from eventlog.store.search import EventSearch, TracedEvent


class EntityHistories:
    """All events of entities, in order of version; those of each entity are read once."""

    def __init__(self, search: EventSearch) -> None:
        self._search = search
        self._histories: dict[UUID, list[TracedEvent]] = {}
        self._undone: dict[UUID, dict[int, TracedEvent]] = {}

    def load(self, ids: Iterable[UUID]) -> None:
        """Read those of these histories that are not read yet, in one statement."""
        missing = {*ids} - self._histories.keys()
        if missing:
            self._histories.update(self._search.load_streams(missing))

    def of(self, entity_id: UUID) -> list[TracedEvent]:
        """All events of the entity; none if there is no such entity."""
        self.load([entity_id])
        return self._histories[entity_id]

    def undone_of(self, entity_id: UUID) -> dict[int, TracedEvent]:
        """The undone events of the entity by position, and the event that undid each."""
        if entity_id not in self._undone:
            self._undone[entity_id] = undone_by(self.of(entity_id))
        return self._undone[entity_id]

    def states(self, ids: Collection[UUID]) -> dict[UUID, Entity]:
        """The current states of these entities, for `LoadedEntities`."""
        self.load(ids)
        return {
            entity_id: evolve(None, [each.event for each in self._histories[entity_id]])
            for entity_id in ids
            if self._histories[entity_id]
        }


def undone_by(history: Sequence[TracedEvent]) -> dict[int, TracedEvent]:
    """The undone events of a history by position, and the event that undid each.

    The history is read from its end: an undo that was itself undone undoes nothing.
    """
    found: dict[int, TracedEvent] = {}
    for event in reversed(history):
        position = undone_position(event)
        if position is not None and event.position not in found:
            found.setdefault(position, event)
    return found


def undone_position(event: TracedEvent) -> int | None:
    """The position of the event that this one undid; None if it is not part of an undo."""
    position = event.metadata.get("undoesPosition")
    return None if position is None else int(position)
