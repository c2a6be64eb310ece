"""One projection at work: what it does with a batch, and what it sets aside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import psycopg
from psycopg.rows import TupleRow

from eventlog.connections import Connection, array
from eventlog.hints import PROJECTED
from eventlog.reading import RecordedEvent
from projections.changes import Projection
from projections.engine.ledger.coverage import ADD_FOR, entries, tally
from projections.engine.ledger.parking import EntityKey, Parked, park, parked
from projections.engine.live.fold import Folded, VersionedChange, dated, fold
from projections.engine.live.statements import Statement, statements

SELECT_STANDING = """
SELECT position, epoch, version, state FROM projections WHERE name = %s
"""
ADVANCE = f"""
WITH moved AS (
    UPDATE projections SET position = %s, updated_at = clock_timestamp()
     WHERE name = ANY(%s::text[]) AND position = %s RETURNING name, epoch
), noted AS ({ADD_FOR.format(names="(SELECT name FROM moved)")})
SELECT array_agg(name), array_agg(epoch), pg_notify('{PROJECTED}', '') FROM moved
"""

UNDIGESTED = (psycopg.DataError, psycopg.IntegrityError)
"""What the database says to a row that a projector should not have made."""


class CheckpointMoved(Exception):
    """Somebody else worked on the same projection; the batch was rolled back."""


@dataclass(slots=True)
class Digested:
    """What a batch comes to in one projection, and the events that it could not take."""

    folded: Folded
    set_aside: dict[EntityKey, Parked] = field(default_factory=dict)


class Follower:
    """A projection, its place in the log, and the statements by which it writes to one schema."""

    def __init__(self, connection: Connection, projection: Projection, schema: str) -> None:
        row = connection.execute(SELECT_STANDING, (projection.name,)).fetchone()
        if row is None:
            raise LookupError(f"projection {projection.name} is not installed; run migrate")
        self.projection = projection
        self.position: int = row[0]
        self.epoch: int = row[1]
        self.version: str = row[2]
        self.parked: dict[EntityKey, Parked] = parked(connection, projection.name)
        self._statements: dict[str, Statement] = statements(connection, schema, projection.tables)

    @property
    def name(self) -> str:
        """The projection's name."""
        return self.projection.name

    def digest(self, events: Iterable[RecordedEvent]) -> Digested:
        """Fold the events; those of parked entities, and of one that fails now, are set aside."""
        changes: list[VersionedChange] = []
        set_aside: dict[EntityKey, Parked] = {}
        for event in events:
            handler = self.projection.handler(event.topic)
            if handler is None:
                continue
            if self.parked or set_aside:
                entity = self._entity(event)
                if entity in self.parked or entity in set_aside:
                    _set_aside(set_aside, event, entity, "")
                    continue
            try:
                changes.extend([dated(event, change) for change in handler(event)])
            except Exception as error:  # noqa: BLE001 - whatever it is, it parks one entity
                message = f"{type(error).__name__}: {error}"
                _set_aside(set_aside, event, self._entity(event), message)
        return Digested(fold(changes, self.projection.tables), set_aside)

    def write(self, connection: Connection, digested: Digested) -> None:
        """Apply what was digested and note what was set aside."""
        for table, rows in digested.folded.items():
            self._statements[table].apply(connection, rows)
        for entry in digested.set_aside.values():
            park(connection, self.name, entry)

    def write_carefully(self, connection: Connection, events: list[RecordedEvent]) -> Digested:
        """Apply all that can be: what fails, here or in the database, parks its entity alone.

        The events are halved until those are found that fail, so a few among many cost little.
        """
        set_aside: dict[EntityKey, Parked] = {}
        for digested in self._write_halved(connection, events):
            for entity, entry in digested.set_aside.items():
                set_aside.setdefault(entity, entry)
        self.parked = parked(connection, self.name)
        return Digested({}, set_aside)

    def _write_halved(
        self, connection: Connection, events: list[RecordedEvent]
    ) -> Iterator[Digested]:
        digested = self.digest(events)
        try:
            with connection.transaction():
                self.write(connection, digested)
        except UNDIGESTED as error:
            if len(events) > 1:
                half = len(events) // 2
                yield from self._write_halved(connection, events[:half])
                yield from self._write_halved(connection, events[half:])
                return
            digested = self._refused(events[0], f"{type(error).__name__}: {error}")
            self.write(connection, digested)
        self.parked.update(digested.set_aside)  # what is left of these waits with it
        yield digested

    def _refused(self, event: RecordedEvent, error: str) -> Digested:
        entity = self._entity(event)
        return Digested({}, {entity: Parked(*entity, event.position, 1, error)})

    def _entity(self, event: RecordedEvent) -> EntityKey:
        return (event.workspace_id, self.projection.entity(event))

    def advanced(self, position: int, digested: Digested) -> None:
        """The transaction is committed: this is where the projection stands now."""
        self.position = position
        self.parked.update(digested.set_aside)


def write_all(
    connection: Connection,
    work: list[tuple[Follower, Digested]],
    events: list[RecordedEvent],
    upto: int,
) -> None:
    """Checkpoints, rows, ledger and the hint, in one transaction and two round trips.

    The followers stand at one position. Raises `CheckpointMoved` and what the database says to a
    row; nothing is written then.
    """
    followers = [follower for follower, _ in work]
    with connection.pipeline() as pipeline, connection.transaction():
        moved = _advance(connection, followers, events, upto)
        for follower, digested in work:
            follower.write(connection, digested)
        pipeline.sync()
        _require_moved(moved, followers)
    for follower, digested in work:
        follower.advanced(upto, digested)


def advance(
    connection: Connection, follower: Follower, events: list[RecordedEvent], upto: int
) -> None:
    """Move its checkpoint, on the condition that nobody else did, note in the ledger what it
    consumed, and say so. Raises `CheckpointMoved`."""
    _require_moved(_advance(connection, [follower], events, upto), [follower])


def _advance(
    connection: Connection, followers: list[Follower], events: list[RecordedEvent], upto: int
) -> psycopg.Cursor[TupleRow]:
    names = array(follower.name for follower in followers)
    parameters = (upto, names, followers[0].position, *entries(tally(events)))
    return connection.execute(ADVANCE, parameters, prepare=True)


def _require_moved(moved: psycopg.Cursor[TupleRow], followers: list[Follower]) -> None:
    names, epochs, _ = moved.fetchone() or ((), (), None)
    found = set(zip(names or (), epochs or (), strict=True))
    if found != {(follower.name, follower.epoch) for follower in followers}:
        raise CheckpointMoved(", ".join(follower.name for follower in followers))


def _set_aside(
    entries: dict[EntityKey, Parked], event: RecordedEvent, entity: EntityKey, error: str
) -> None:
    entry = entries.get(entity)
    if entry is None:
        entries[entity] = Parked(*entity, event.position, 1, error)
    else:
        entry.events += 1
