"""The log as an application of the eventsourcing library: load entities, save what they decided."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

from eventsourcing.application import AggregateNotFoundError, Application
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
from eventlog.locks import ACCOUNT_LOCK
from eventlog.reading.entities import ABSORBED
from eventlog.scope import Scope
from eventlog.store.claims import hold_claims, keep_claims, select_claimants, store_claims
from eventlog.store.mapper import EventMapper, LogEvent, OrjsonTranscoder
from eventlog.store.recorder import PostgresLogRecorder, current_session

E = TypeVar("E", bound=RecordedAggregate)

LOCK_ACCOUNT_SHARED = f"SELECT pg_advisory_xact_lock_shared({ACCOUNT_LOCK}, hashtext(%s))"
LOCK_ACCOUNT = f"SELECT pg_advisory_xact_lock({ACCOUNT_LOCK}, hashtext(%s))"

SELECT_HANGING_ON = f"""
WITH RECURSIVE {ABSORBED}
SELECT e.stream_id, e.stream_version, e.topic, e.data, e.occurred_at, e.account_id
  FROM absorbed AS o
  JOIN events AS c ON c.account_id = o.id AND c.stream_version = 1
  JOIN events AS e ON e.stream_id = c.stream_id
 WHERE c.workspace_id = %(workspace)s AND e.workspace_id = %(workspace)s
 ORDER BY c.position, e.stream_version
"""

LOCK_ACCOUNTS_SHARED = f"""
SELECT pg_advisory_xact_lock_shared({ACCOUNT_LOCK}, hashtext(id::text))
  FROM (SELECT id FROM unnest(%s::uuid[]) AS id ORDER BY id) AS ids
"""
LOCK_ACCOUNTS = LOCK_ACCOUNTS_SHARED.replace("_shared", "")

LOCK_ALL = f"""
SELECT CASE WHEN alone THEN pg_advisory_xact_lock({ACCOUNT_LOCK}, hashtext(id::text))
            ELSE pg_advisory_xact_lock_shared({ACCOUNT_LOCK}, hashtext(id::text)) END
  FROM unnest(%s::uuid[], %s::boolean[]) AS held(id, alone)
"""

SELECT_STREAMS = """
SELECT stream_id, stream_version, topic, data, occurred_at, account_id FROM events
 WHERE workspace_id = %s AND stream_id = ANY(%s::uuid[])
 ORDER BY stream_id, stream_version
"""
CLAIMING_TOPICS = [topic for topic, kind in ENTITY_OF.items() if kind.CLAIMS_TIME]
MEND_BATCH = 200
"""So many entities are looked at while nobody can claim time."""


class LogFactory(InfrastructureFactory[TrackingRecorder]):
    """Gives the library our recorder and our mapper."""

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


class EventLog(Application[UUID]):
    """Reads and writes entities. Thread-safe; one per process.

    Everything happens in a scope: `with log.scoped(scope)` for single statements, or
    `with log.transaction(scope)` where a decision must hold against what others write.
    """

    name = "annals"

    def __init__(
        self,
        pool: ConnectionPool[Connection],
        *,
        after_append: Callable[[], None] = lambda: None,
        observe_append: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._log_recorder = PostgresLogRecorder(
            pool, after_append=after_append, observe_append=observe_append
        )
        super().__init__()

    def construct_factory(self, env: Environment) -> InfrastructureFactory:
        return LogFactory(env, self._log_recorder)

    @contextmanager
    def scoped(self, scope: Scope) -> Iterator[None]:
        """Act in this scope; each load and each save is a transaction of its own.

        Within an open transaction of this workspace both scopes and transactions are parts of it.
        """
        with self._log_recorder.scoped(scope):
            yield

    @contextmanager
    def transaction(self, scope: Scope) -> Iterator[Connection]:
        """Act in this scope within one transaction."""
        with self._log_recorder.transaction(scope) as connection:
            yield connection

    def load(self, entity_class: type[E], entity_id: UUID) -> E:
        """The entity as it is now, deleted or not. Raises `NotFound`."""
        try:
            entity = self.repository.get(entity_id, projector_func=evolve)
        except AggregateNotFoundError:
            raise NotFound(entity_class.KIND, entity_id) from None
        if not isinstance(entity, entity_class):
            raise NotFound(entity_class.KIND, entity_id)
        return entity

    def load_many(self, entity_class: type[E], ids: Iterable[UUID]) -> dict[UUID, E]:
        """Load those of these entities that exist, deleted or not, in one statement."""
        with self._log_recorder.reading() as connection:
            workspace_id = current_session().scope.workspace_id
            found = self._evolved(connection.execute(SELECT_STREAMS, (workspace_id, list(ids))))
        return {key: each for key, each in found.items() if isinstance(each, entity_class)}

    def append(self, *entities: RecordedAggregate) -> int | None:
        """Record what the entities have decided; the last position, None where there is nothing.

        Raises the library's `IntegrityError` where somebody else was faster: nothing of this append
        is recorded then, and what was pending is gone; load again and decide again. Raises
        `TimeTaken` where an entity would take time that another has.
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

        `claims` are those of the entities after the events; by default they are worked out here.
        `extras`, one for each event, are added to the metadata of the scope.
        """
        events = list(events)
        return self._write(events, self._claims_after(events) if claims is None else claims, extras)

    def mend_claims(self, scope: Scope) -> list[UUID]:
        """Have the table of claimed times say what the log says; the entities of which it did not.

        Some entities at a time, during which nobody else claims time.
        """
        with self.transaction(scope) as connection:
            claimants = select_claimants(connection, scope.workspace_id, CLAIMING_TOPICS)
        mended: list[UUID] = []
        for start in range(0, len(claimants), MEND_BATCH):
            with self.transaction(scope) as connection:
                hold_claims(connection)
                claims = {
                    entity_id: self.load(ENTITY_OF[topic], entity_id).claim()
                    for entity_id, topic in claimants[start : start + MEND_BATCH]
                }
                mended += store_claims(connection, scope.workspace_id, claims)
        return mended

    def _write(
        self,
        events: list[Any],
        claims: Mapping[UUID, TimeClaim | None],
        extras: Sequence[Mapping[str, str]] | None = None,
    ) -> int | None:
        # As the library's save() does, without what it checks and returns beside: that costs more
        # than the mapping.
        stored = list(map(self.mapper.to_stored_event, events))
        if not stored or not claims:
            positions = self._log_recorder.insert_events(stored, extras=extras)
        else:
            # Before the events: who waits for a lock must not hold positions meanwhile.
            scope = current_session().scope
            with self.transaction(scope) as connection:
                keep_claims(connection, scope.workspace_id, claims)
                positions = self._log_recorder.insert_events(stored, extras=extras)
        return positions[-1] if positions else None

    def _claims_after(self, events: Iterable[Any]) -> dict[UUID, TimeClaim | None]:
        """What those of the entities claim that may, after these events."""
        found: dict[UUID, Entity] = {}
        for event in events:
            kind = ENTITY_OF.get(event.TOPIC)  # none where it is of a job
            if kind is None or not kind.CLAIMS_TIME:
                continue
            entity_id, before = event.originator_id, event.originator_version - 1
            entity = found.get(entity_id)
            if entity is None and before:
                entity = self.repository.get(entity_id, version=before, projector_func=evolve)
            found[entity_id] = evolve(entity, [event])
        return {entity_id: entity.claim() for entity_id, entity in found.items()}

    def taken_position(self) -> int:
        """No event that is recorded by now lies beyond this position."""
        return self._log_recorder.taken_position()

    def hold_account(self, account_id: UUID) -> None:
        """Until the end of the transaction, nobody deletes the account with what hangs on it."""
        self._in_transaction().execute(LOCK_ACCOUNT_SHARED, (str(account_id),))

    def hold_account_alone(self, account_id: UUID) -> None:
        """Until the end of the transaction, nobody adds anything to the account."""
        self._in_transaction().execute(LOCK_ACCOUNT, (str(account_id),))

    def hold_accounts(self, account_ids: Iterable[UUID], *, alone: bool = False) -> None:
        """As `hold_account`, or `hold_account_alone`, for several; always in the same order."""
        statement = LOCK_ACCOUNTS if alone else LOCK_ACCOUNTS_SHARED
        self._in_transaction().execute(statement, (list(account_ids),))

    def hold_all(self, *, alone: Collection[UUID], shared: Collection[UUID]) -> None:
        """Some accounts alone and others not, in the order in which everybody takes them."""
        ids = sorted({*alone, *shared})
        self._in_transaction().execute(LOCK_ALL, (ids, [each in alone for each in ids]))

    def children_of(self, account_ids: Collection[UUID]) -> dict[UUID, list[Entity]]:
        """All that hangs on each of the accounts, deleted or not; in order of creation.

        What was created there or came with an account that was merged into it, and is there still.
        """
        workspace_id = current_session().scope.workspace_id
        parameters = {"workspace": workspace_id, "accounts": list(account_ids)}
        rows = self._in_transaction().execute(SELECT_HANGING_ON, parameters)
        hanging: dict[UUID, list[Entity]] = {account_id: [] for account_id in account_ids}
        for entity in self._evolved(rows).values():
            if isinstance(entity, Entity) and entity.account_id in hanging:
                hanging[entity.account_id].append(entity)
        return hanging

    def _evolved(self, rows: Iterable[Any]) -> dict[UUID, Any]:
        """What these events make, rows of stream, version, topic, data, time and account."""
        workspace_id = current_session().scope.workspace_id
        found: dict[UUID, Any] = {}
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

    @staticmethod
    def _in_transaction() -> Connection:
        connection = current_session().connection
        assert connection is not None, "this holds within a transaction only"
        return connection


def evolve(entity: Any, events: Iterable[Any]) -> Any:
    """Fold events into the entity. The library's own checks a protocol for every event (12 µs)."""
    for event in events:
        entity = event.mutate(entity)
    return entity
