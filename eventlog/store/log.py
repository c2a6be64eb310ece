"""The log as an application of the eventsourcing library: load entities, save their decisions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import CanMutateAggregate
from eventsourcing.persistence import (
    ApplicationRecorder,
    InfrastructureFactory,
    Mapper,
    TrackingRecorder,
    Transcoder,
)
from eventsourcing.utils import Environment
from psycopg_pool import ConnectionPool

from domain.shared.claims import TimeClaim
from domain.shared.entity import Entity, RecordedAggregate
from domain.shared.kinds import ENTITY_OF
from domain.shared.refusals import NotFound
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.accounts import SELECT_CHILDREN, lock_accounts
from eventlog.store.cache import EntityCache, copied
from eventlog.store.claims import claim_times, lock_claims, overwrite_claims, select_claimants
from eventlog.store.mapper import EventMapper, LogEvent, OrjsonTranscoder
from eventlog.store.recorder import PostgresLogRecorder, current_session, open_connection

E = TypeVar("E", bound=RecordedAggregate)

CLAIMING_TOPICS = [topic for topic, kind in ENTITY_OF.items() if kind.CLAIMS_TIME]
NO_STATES: Mapping[UUID, Any] = MappingProxyType({})
REPAIR_BATCH = 200
"""Entities that a repair checks in one transaction, which blocks other claims."""


class EventLog(Application[UUID]):
    """Reads and writes entities. Thread-safe; a process needs one.

    Everything happens in a scope: `with log.scoped(scope)` for single statements, or
    `with log.transaction(scope)` if a decision must hold against concurrent writes.
    """

    name = "annals"

    def __init__(
        self,
        pool: ConnectionPool[Connection],
        *,
        after_append: Callable[[], None] = lambda: None,
        observe_append: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.after_append, self.observe_append = after_append, observe_append
        self._log_recorder = PostgresLogRecorder(
            pool, after_append=after_append, observe_append=observe_append
        )
        self.cache = EntityCache()
        super().__init__()

    def construct_factory(self, env: Environment) -> InfrastructureFactory:
        return LogFactory(env, self._log_recorder)

    @contextmanager
    def scoped(self, scope: Scope) -> Iterator[None]:
        """Act in this scope, with one transaction for each load and each save.

        If a transaction in this workspace is open, each of them joins it.
        """
        with self._log_recorder.scoped(scope):
            yield

    @contextmanager
    def transaction(self, scope: Scope) -> Iterator[Connection]:
        """Act in this scope within one transaction, or join the one that is open."""
        with self._log_recorder.transaction(scope) as connection:
            yield connection

    def load(self, entity_class: type[E], entity_id: UUID) -> E:
        """Load an entity, deleted or not. Raises `NotFound`."""
        entity = self._load_one(entity_id)
        if not isinstance(entity, entity_class):
            raise NotFound(entity_class.KIND, entity_id)
        return entity

    def load_many(self, entity_class: type[E], ids: Iterable[UUID]) -> dict[UUID, E]:
        """Load entities, deleted or not, in one statement; unknown ids are left out."""
        wanted = list(ids)
        if len(wanted) == 1:
            entity = self._load_one(wanted[0])
            found = {} if entity is None else {wanted[0]: entity}
        else:
            workspace_id = current_session().scope.workspace_id
            found = self.evolved(workspace_id, self._log_recorder.select_streams(wanted))
        return {key: each for key, each in found.items() if isinstance(each, entity_class)}

    def children_of(self, account_ids: Collection[UUID]) -> dict[UUID, list[Entity]]:
        """Load the entities that belong to each account, deleted or not, in order of creation.

        They were created on it, or moved to it when their account was merged into it.
        """
        workspace_id = current_session().scope.workspace_id
        parameters = {"workspace": workspace_id, "accounts": list(account_ids)}
        rows = open_connection().execute(SELECT_CHILDREN, parameters)
        children: dict[UUID, list[Entity]] = {account_id: [] for account_id in account_ids}
        for entity in self.evolved(workspace_id, rows).values():
            if isinstance(entity, Entity) and entity.account_id in children:
                children[entity.account_id].append(entity)
        return children

    def lock_accounts(
        self, *, shared: Collection[UUID] = (), exclusive: Collection[UUID] = ()
    ) -> None:
        """Lock accounts until the transaction ends, in the same order for every caller.

        shared: keeps others from deleting, merging or restoring them. exclusive: also keeps others
        from adding entities to them.
        """
        lock_accounts(open_connection(), shared=shared, exclusive=exclusive)

    def append(self, *entities: RecordedAggregate) -> int | None:
        """Record what the entities have decided; return the last position, None for no events.

        Raises the library's `IntegrityError` after a concurrent write to one of the entities. Then
        nothing is recorded and the pending events are lost: load and decide again. Raises
        `TimeTaken` if an entity claims time that another one has claimed.
        """
        claims = {
            each.id: each.claim()
            for each in entities
            if isinstance(each, Entity) and each.CLAIMS_TIME and each.pending_events
        }
        return self._write([event for each in entities for event in each.collect_events()], claims)

    def record(
        self,
        events: Iterable[CanMutateAggregate[UUID]],
        *,
        claims: Mapping[UUID, TimeClaim | None] | None = None,
        extras: Sequence[Mapping[str, str]] | None = None,
    ) -> int | None:
        """As `append`, for events that were collected before.

        claims: those of the entities after the events, by default computed here. extras: metadata
        that is added to the scope's, one mapping for each event.
        """
        events = list(events)
        return self._write(events, self._claims_after(events) if claims is None else claims, extras)

    def taken_position(self) -> int:
        """The last position that was assigned: every event recorded so far is at or below it."""
        return self._log_recorder.taken_position()

    def repair_claims(self, scope: Scope, owner: Connection) -> list[UUID]:
        """Make the table of claimed times agree with the log; return the entities that differed.

        It works in batches, which block other claims. owner: a connection in the role that owns the
        table, because no other role may change a claim without an event.
        """
        with self.transaction(scope) as connection:
            claimants = select_claimants(connection, scope.workspace_id, CLAIMING_TOPICS)
        repaired: list[UUID] = []
        for start in range(0, len(claimants), REPAIR_BATCH):
            with owner.transaction(), self.scoped(scope):
                lock_claims(owner)
                claims = {
                    entity_id: self.load(ENTITY_OF[topic], entity_id).claim()
                    for entity_id, topic in claimants[start : start + REPAIR_BATCH]
                }
                repaired += overwrite_claims(owner, scope.workspace_id, claims)
        return repaired

    def _write(
        self,
        events: list[Any],
        claims: Mapping[UUID, TimeClaim | None],
        extras: Sequence[Mapping[str, str]] | None = None,
    ) -> int | None:
        # Not the library's save(): its checks and results cost more than the mapping.
        stored = list(map(self.mapper.to_stored_event, events))
        if not stored or not claims:
            positions = self._log_recorder.insert_events(stored, extras=extras)
        else:
            # Claims come first, because a writer must not hold positions while it waits for a lock.
            scope = current_session().scope
            with self.transaction(scope) as connection:
                claim_times(connection, scope.workspace_id, claims)
                positions = self._log_recorder.insert_events(stored, extras=extras)
        return positions[-1] if positions else None

    def _claims_after(self, events: Iterable[Any]) -> dict[UUID, TimeClaim | None]:
        """The claims, after these events, of the entities whose kind claims time."""
        found: dict[UUID, Entity] = {}
        for event in events:
            kind = ENTITY_OF.get(event.TOPIC)  # None for an event of a job
            if kind is None or not kind.CLAIMS_TIME:
                continue
            entity_id, before = event.originator_id, event.originator_version - 1
            entity = found.get(entity_id)
            if entity is None and before:
                entity = self.repository.get(entity_id, version=before, projector_func=evolve)
            found[entity_id] = evolve(entity, [event])
        return {entity_id: entity.claim() for entity_id, entity in found.items()}

    def _load_one(self, entity_id: UUID) -> Any:
        """Load an entity from the state that is kept, if there is one, and the events after it."""
        session = current_session()
        workspace_id = session.scope.workspace_id
        kept = self.cache.find(workspace_id, entity_id)
        version = kept.version if kept is not None else 1
        rows = self._log_recorder.select_stream_from(entity_id, version)
        if kept is not None and not follows(rows, kept):
            self.cache.drop(workspace_id, entity_id)
            kept = None
            rows = self._log_recorder.select_stream_from(entity_id, 1)
        # A transaction also sees events that it may roll back.
        is_committed = session.connection is None
        return self.folded(workspace_id, entity_id, rows, kept, is_committed=is_committed)

    def folded(
        self,
        workspace_id: UUID,
        entity_id: UUID,
        rows: Sequence[Any],
        kept: Any,
        *,
        is_committed: bool,
    ) -> Any:
        """Fold the rows of one stream into a new instance, None if there are none.

        kept: the state that the first row belongs to (`follows`), None if the rows are the whole
        stream. is_committed: whether all rows are, so that the state may be kept.
        """
        before = NO_STATES
        if kept is not None:
            before, rows = {entity_id: copied(kept)}, rows[1:]
        entity = self.evolved(workspace_id, rows, before).get(entity_id)
        if is_committed:
            self.cache.keep_folded(workspace_id, entity, len(rows))
        return entity

    def evolved(
        self, workspace_id: UUID, rows: Iterable[Any], before: Mapping[UUID, Any] = NO_STATES
    ) -> dict[UUID, Any]:
        """Fold rows of stream, version, topic, data, time and account into entities, by id.

        before: their states before these events.
        """
        found = dict(before)
        for stream_id, version, topic, data, occurred_at, account_id in rows:
            stored = LogEvent(
                originator_id=stream_id,
                originator_version=version,
                topic=topic,
                state=data,
                occurred_at=occurred_at,
                account_id=account_id,
                workspace_id=workspace_id,
            )
            event = self.mapper.to_domain_event(stored)
            found[stream_id] = evolve(found.get(stream_id), [event])
        return found


class LogFactory(InfrastructureFactory[TrackingRecorder]):
    """Makes the recorder, mapper and transcoder of the library's application."""

    def __init__(self, env: Environment, recorder: PostgresLogRecorder) -> None:
        super().__init__(env)
        self.recorder = recorder

    def application_recorder(self) -> ApplicationRecorder:
        return self.recorder

    def aggregate_recorder(self, purpose: str = "events") -> ApplicationRecorder:
        return self.recorder

    def transcoder(self) -> Transcoder:
        return OrjsonTranscoder()

    def mapper(self, transcoder: Transcoder | None = None, mapper_class: Any = None) -> Mapper[Any]:
        return EventMapper(transcoder or self.transcoder())

    def tracking_recorder(self, tracking_recorder_class: Any = None) -> Any:
        raise TypeError("projections keep their own checkpoints")

    def process_recorder(self) -> Any:
        raise TypeError("projections keep their own checkpoints")


def follows(rows: Sequence[Any], kept: Any) -> bool:
    """Whether rows of a stream begin with the last event of the state that is kept.

    If they do not, the database was replaced by a backup.
    """
    return bool(rows) and (rows[0][1], rows[0][4]) == (kept.version, kept.modified_on)


def evolve(entity: Any, events: Iterable[Any]) -> Any:
    """Fold events into an entity, without the library's check of each event (12 µs)."""
    for event in events:
        entity = event.mutate(entity)
    return entity
