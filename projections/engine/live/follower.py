"""One projection and its place in the log: folding batches, writing rows, parking entities."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import psycopg

from eventlog.connections import WRITES_REFUSED, Connection, array
from eventlog.hints import PROJECTED
from eventlog.libpq.batches import BatchStatement, execute_together
from eventlog.reading import Page, RecordedEvent
from projections.changes import Projection, RowKey
from projections.engine.ledger.coverage import ADD_FOR, tally_events, to_arrays
from projections.engine.ledger.parking import EntityKey, ParkedEntity, load_parked, parking
from projections.engine.rows.fold import ChangedRows, FoldedChange
from projections.engine.rows.memory import AppliedProjection
from projections.engine.rows.statements import Statement, load_statements

log = logging.getLogger(__name__)

SELECT_CHECKPOINT = "SELECT position, epoch, version FROM projections WHERE name = %s"
ADVANCE = f"""
WITH moved AS (
    UPDATE projections AS p SET position = %s, updated_at = clock_timestamp()
      FROM unnest(%s::text[], %s::bigint[]) AS f(name, epoch)
     WHERE p.name = f.name AND p.epoch = f.epoch AND p.position = %s RETURNING p.name
), noted AS ({ADD_FOR.format(names="(SELECT name FROM moved)")})
SELECT require_moved(count(*), %s), pg_notify('{PROJECTED}', '') FROM moved
""".encode()

ROW_ERRORS = (psycopg.DataError, psycopg.IntegrityError)
"""The errors by which the database rejects a row that a projector made."""
TABLE_ERRORS = (
    psycopg.ProgrammingError,
    psycopg.InternalError,
    psycopg.NotSupportedError,
    psycopg.errors.UndefinedFile,
    psycopg.errors.IoError,
)
"""The errors by which the database reports a missing, altered or damaged table."""


class CannotApply(Exception):
    """A projection whose tables no event can be applied to; others are not affected."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"projection {name}: {problem}")
        self.name = name
        self.problem = problem


class MadeByOtherCode(CannotApply):
    """The rows of a projection were made by another version than that of the running code."""


class CheckpointMoved(Exception):
    """Another process worked on the same projection; the batch was rolled back."""


@dataclass(slots=True)
class FoldedBatch:
    """The row changes of a batch in one projection, and the entities that they leave out."""

    changes: dict[str, dict[RowKey, FoldedChange]]
    """The change of each row, by table and key."""
    parked: dict[EntityKey, ParkedEntity] = field(default_factory=dict)


class Follower:
    """A projection, its place in the log, and the statements that write to one schema."""

    def __init__(self, connection: Connection, projection: Projection, schema: str) -> None:
        row = connection.execute(SELECT_CHECKPOINT, (projection.name,)).fetchone()
        if row is None:
            raise LookupError(f"projection {projection.name} is not installed; run migrate")
        self.projection = projection
        self.position: int = row[0]
        self.epoch: int = row[1]
        self.version: str = row[2]
        self.parked: dict[EntityKey, ParkedEntity] = load_parked(connection, projection.name)
        self._rows = {table.name: ChangedRows() for table in projection.tables}
        self._applied = AppliedProjection(projection, self._rows)
        self._statements: dict[str, Statement] = load_statements(
            connection, schema, projection.tables
        )

    @classmethod
    def open(
        cls, connection: Connection, projection: Projection, schema: str, version: str | None
    ) -> Follower:
        """A follower that may apply events with code of this version; None stands for any version.

        The epoch, which every transaction compares, changes whenever the version of the rows does.
        Raises `CannotApply` if the tables cannot be used or have rows of another version.
        """
        try:
            follower = cls(connection, projection, schema)
        except (LookupError, *TABLE_ERRORS) as error:
            raise CannotApply(projection.name, describe_problem(error)) from error
        if version is not None and version != follower.version:
            raise MadeByOtherCode(
                projection.name, f"its rows were made by version {follower.version} of its code"
            )
        return follower

    @property
    def name(self) -> str:
        """The projection's name."""
        return self.projection.name

    def ignores(self, topics: set[str]) -> bool:
        """Whether events of these topics change no row."""
        return self.projection.topics.isdisjoint(topics)

    def fold(self, events: Iterable[RecordedEvent]) -> FoldedBatch:
        """Fold the events of entities that are not parked; if one raises an error, park it."""
        parked: dict[EntityKey, ParkedEntity] = {}
        topics = self.projection.topics
        for event in events:
            if event.topic not in topics:
                continue
            if self.parked or parked:
                entity = self._entity(event)
                if entity in self.parked or entity in parked:
                    _add_parked(parked, event, entity, "")
                    continue
            try:
                self._applied.apply(event)
            except Exception as error:  # noqa: BLE001 - any error parks one entity
                message = f"{type(error).__name__}: {error}"
                _add_parked(parked, event, self._entity(event), message)
        changes = {name: rows.take() for name, rows in self._rows.items() if rows.changes}
        return FoldedBatch(changes, parked)

    def statements(self, batch: FoldedBatch) -> list[BatchStatement]:
        """The statements that apply the row changes and record the parked entities."""
        rows = [self._statements[table].of(changes) for table, changes in batch.changes.items()]
        return rows + [parking(self.name, entry) for entry in batch.parked.values()]

    def write(self, connection: Connection, batch: FoldedBatch) -> None:
        """Apply the row changes and record the parked entities."""
        for statement, values in self.statements(batch):
            connection.execute(statement, values, prepare=True)

    def write_halved(self, connection: Connection, events: list[RecordedEvent]) -> FoldedBatch:
        """Apply the events, and park the entities of those that the database rejects.

        The list of events is halved until those at fault are found, so a few of many cost little.
        Returns the parked entities; the changes are written already.
        """
        parked: dict[EntityKey, ParkedEntity] = {}
        self.parked = dict(self.parked)  # so that the caller can restore it
        for batch in self._write_halved(connection, events):
            for entity, entry in batch.parked.items():
                parked.setdefault(entity, entry)
        self.parked = load_parked(connection, self.name)
        return FoldedBatch({}, parked)

    def _write_halved(
        self, connection: Connection, events: list[RecordedEvent]
    ) -> Iterator[FoldedBatch]:
        batch = self.fold(events)
        try:
            with connection.transaction():
                self.write(connection, batch)
        except ROW_ERRORS as error:
            if len(events) > 1:
                half = len(events) // 2
                yield from self._write_halved(connection, events[:half])
                yield from self._write_halved(connection, events[half:])
                return
            batch = self._rejected(events[0], f"{type(error).__name__}: {error}")
            self.write(connection, batch)
        self.parked.update(batch.parked)  # so that later events of these entities wait
        yield batch

    def _rejected(self, event: RecordedEvent, error: str) -> FoldedBatch:
        entity = self._entity(event)
        return FoldedBatch({}, {entity: ParkedEntity(*entity, event.position, 1, error)})

    def _entity(self, event: RecordedEvent) -> EntityKey:
        return (event.workspace_id, self.projection.entity(event))


Work = list[tuple[Follower, list[RecordedEvent]]]
"""The events to apply to each projection."""
Batches = list[tuple[Follower, FoldedBatch]]
Advance = Callable[[], AbstractContextManager[None]]
"""Opens the block in which rows are written, and moves the checkpoints that go with them."""


def apply_events(
    connection: Connection,
    work: Work,
    advance: Advance,
    *,
    parks_rejected_rows: bool = True,
) -> None:
    """Apply each follower's events and move checkpoints, in one transaction.

    The entities of events whose rows the database rejects are parked, and all other events applied;
    without `parks_rejected_rows` the database's error is raised. Raises `CheckpointMoved`, and
    `CannotApply` for a projection whose tables are damaged. Nothing is written if an error is
    raised.
    """
    batches = [(follower, follower.fold(events)) for follower, events in work]

    def write() -> None:
        with connection.pipeline() as pipeline, connection.transaction(), advance():
            for follower, batch in batches:
                follower.write(connection, batch)
            pipeline.sync()

    _write(connection, work, batches, write, advance, parks_rejected_rows=parks_rejected_rows)


def _write(
    connection: Connection,
    work: Work,
    batches: Batches,
    write: Callable[[], object],
    advance: Advance,
    *,
    parks_rejected_rows: bool,
) -> None:
    """Write the batches; if the database rejects a row, find out which, and park its entity."""
    with _checkpoints_compared(work):
        try:
            write()
        except WRITES_REFUSED:  # no fault of a row or a table
            raise
        except (*ROW_ERRORS, *TABLE_ERRORS) as error:
            if not parks_rejected_rows or connection.closed:
                raise
            log.warning("a batch was rejected and is applied in parts: %s", error)
            batches = _write_in_parts(connection, work, advance)
    for follower, batch in batches:
        follower.parked.update(batch.parked)
        _log_parked(follower, batch)


@contextmanager
def _checkpoints_compared(work: Work) -> Iterator[None]:
    """Raise `CheckpointMoved` for the error of the statement that compares checkpoints."""
    try:
        yield
    except psycopg.errors.SerializationFailure as error:
        raise CheckpointMoved(", ".join(follower.name for follower, _ in work)) from error


def _write_in_parts(connection: Connection, work: Work, advance: Advance) -> Batches:
    before = [follower.parked for follower, _ in work]
    try:
        with connection.transaction(), advance():
            return [(each, _write_alone(connection, each, events)) for each, events in work]
    except Exception:
        for (follower, _), parked in zip(work, before, strict=True):
            follower.parked = parked
        raise


def describe_problem(error: Exception) -> str:
    """The error in one line, without the statement that caused it."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__}: {primary or error}"


def _write_alone(
    connection: Connection, follower: Follower, events: list[RecordedEvent]
) -> FoldedBatch:
    """Apply the events of one projection. Raises `CannotApply` if its tables are damaged."""
    try:
        return follower.write_halved(connection, events)
    except WRITES_REFUSED:
        raise
    except TABLE_ERRORS as error:
        raise CannotApply(follower.name, describe_problem(error)) from error


def apply_page(
    connection: Connection,
    followers: list[Follower],
    page: Page,
    *,
    parks_rejected_rows: bool = True,
) -> None:
    """Apply a page of the log to followers that stand at one position, in one round trip.

    Raises as `apply_events`. The connection must not be in a transaction.
    """
    work = [(follower, page.events) for follower in followers]
    topics = {event.topic for event in page.events}
    batches = [
        (each, FoldedBatch({}) if each.ignores(topics) else each.fold(page.events))
        for each in followers
    ]
    statements = [_advance(followers, page.events, page.upto)]
    for follower, batch in batches:
        statements += follower.statements(batch)
    _write(
        connection,
        work,
        batches,
        lambda: execute_together(connection, statements),
        lambda: advancing(connection, followers, page.events, page.upto),
        parks_rejected_rows=parks_rejected_rows,
    )
    for follower in followers:
        follower.position = page.upto


@contextmanager
def advancing(
    connection: Connection, followers: list[Follower], events: list[RecordedEvent], upto: int
) -> Iterator[None]:
    """Move checkpoints from the followers' position to `upto`, record coverage, send the hint.

    The database raises `SerializationFailure` if another process moved one of them.
    """
    statement, values = _advance(followers, events, upto)
    connection.execute(statement, values, prepare=True)
    yield


def _advance(followers: list[Follower], events: list[RecordedEvent], upto: int) -> BatchStatement:
    return ADVANCE, (
        upto,
        array(follower.name for follower in followers),
        array(follower.epoch for follower in followers),
        followers[0].position,
        *to_arrays(tally_events(events)),
        len(followers),
    )


def _add_parked(
    parked: dict[EntityKey, ParkedEntity], event: RecordedEvent, entity: EntityKey, error: str
) -> None:
    entry = parked.get(entity)
    if entry is None:
        parked[entity] = ParkedEntity(*entity, event.position, 1, error)
    else:
        entry.events += 1


def _log_parked(follower: Follower, batch: FoldedBatch) -> None:
    """Log the entities that this batch parked; further events of parked ones have no error."""
    for entry in batch.parked.values():
        if entry.error:
            log.error(
                "projection %s parked entity %s at position %s: %s",
                follower.name, entry.entity_id, entry.position, entry.error,
            )  # fmt: skip
