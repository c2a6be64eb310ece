"""The recorder: events into and out of the table `events`, behind the library's interfaces.

Unlike the library's own recorder it takes no table lock and sends no NOTIFY in the transaction.
Announcements keep the order that followers rely on (sql/0001_events.sql and docs/adr/0002).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import orjson
from eventsourcing.persistence import (
    ApplicationRecorder,
    Notification,
    ProgrammingError,
    StoredEvent,
    Subscription,
)
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from domain.shared.refusals import KeyNotAccepted
from eventlog.connections import ENTERED, Connection, array, set_workspace, translated_errors
from eventlog.reading.positions import SELECT_TAKEN, readable_position
from eventlog.scope import Scope
from eventlog.store.mapper import LogEvent, LogNotification

APPEND_ONE = """
SELECT append_event(%s::uuid, %s::uuid, %s::integer, %s::text, %s::uuid, %s::json, %s::json,
                    %s::timestamptz)
"""
APPEND = "SELECT append_events(%s::uuid, %s::json, %s::json)"
APPEND_KEYS = "SELECT append_key_events(%s::uuid, %s::json, %s::json, %s::uuid, %s)"
APPEND_EACH = "SELECT append_events_each(%s::uuid, %s::json)"

SELECT_STREAM = """
SELECT stream_version, topic, data, occurred_at, account_id
  FROM events
 WHERE workspace_id = %(workspace)s AND stream_id = %(stream)s
   AND stream_version > %(gt)s AND stream_version <= %(lte)s
 ORDER BY stream_version {direction} LIMIT %(limit)s
"""
SELECT_STREAM_FORWARD = SELECT_STREAM.format(direction="ASC")
SELECT_STREAM_BACKWARD = SELECT_STREAM.format(direction="DESC")

# OFFSET 0 keeps the table from being read before row-level security knows the workspace.
SELECT_STREAMS = f"""{ENTERED}
SELECT e.stream_id, e.stream_version, e.topic, e.data, e.occurred_at, e.account_id
  FROM entered, LATERAL (
       SELECT stream_id, stream_version, topic, data, occurred_at, account_id FROM events
        WHERE workspace_id = entered.workspace AND {{wanted}}
       OFFSET 0) AS e
 ORDER BY e.stream_id, e.stream_version
"""
SELECT_STREAMS_OF_MANY = SELECT_STREAMS.format(wanted="stream_id = ANY(%(streams)s::uuid[])")
SELECT_STREAM_FROM = SELECT_STREAMS.format(
    wanted="stream_id = %(stream)s::uuid AND stream_version >= %(version)s"
)
"""For one stream: with an array PostgreSQL would make a new plan each time, which takes four times
as long as to run it."""

SELECT_NOTIFICATIONS = """
SELECT position, stream_id, stream_version, topic, data, occurred_at, account_id
  FROM events
 WHERE workspace_id = %(workspace)s AND position >= %(start)s AND position <= %(stop)s
   AND (%(topics)s::text[] = '{}' OR topic = ANY(%(topics)s))
 ORDER BY position LIMIT %(limit)s
"""

OWN_EVENTS = "the recorder takes the events of its own mapper"
KEY_TOPICS = "api_key."
"""Events of API keys take a credential, except in the owner's role (sql/0014_keys.sql)."""
MAX_VERSION = 2**31 - 1
MAX_POSITION = 2**62
SUBSCRIPTION_POLL_S = 0.1
SUBSCRIPTION_PAGE = 500


@dataclass
class Session:
    """A scope, and the connection of the transaction in which it acts, if one is open."""

    scope: Scope
    connection: Connection | None = None
    pool: ConnectionPool[Connection] | None = None
    """The pool that the connection comes from."""
    has_appended: bool = False


SESSION: ContextVar[Session | None] = ContextVar("annals_session", default=None)


def current_session() -> Session:
    """The session of this thread. Raises `ProgrammingError` outside `scoped` and `transaction`."""
    session = SESSION.get()
    if session is None:
        raise ProgrammingError("the log is read and written inside scoped() or transaction()")
    return session


def open_connection() -> Connection:
    """The connection of the open transaction. Raises `ProgrammingError` if none is open."""
    connection = current_session().connection
    if connection is None:
        raise ProgrammingError("this needs an open transaction(): scoped() is not enough")
    return connection


class PostgresLogRecorder(ApplicationRecorder):
    """Appends events to the log and reads them. Thread-safe.

    Reads and writes act in the workspace of the current session (`scoped`, `transaction`). Both the
    statements and row-level security hide all other workspaces.
    """

    def __init__(
        self,
        pool: ConnectionPool[Connection],
        *,
        after_append: Callable[[], None] = lambda: None,
        observe_append: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """after_append: called after appended events are committed. observe_append: called with the
        seconds of each append, in a transaction without the commit."""
        self.pool = pool
        self.after_append = after_append
        self.observe_append = observe_append

    @contextmanager
    def scoped(self, scope: Scope) -> Iterator[None]:
        """Act in this scope, with one transaction for each read and each append.

        If a transaction in this workspace is open, each of them joins it.
        """
        if (outer := self._open_session(scope)) is not None:
            with self._joined(outer, scope):
                yield
            return
        token = SESSION.set(Session(scope))
        try:
            yield
        finally:
            SESSION.reset(token)

    @contextmanager
    def transaction(self, scope: Scope) -> Iterator[Connection]:
        """Act in this scope within one transaction, which commits at the end of the block.

        If a transaction in this workspace is open, this one joins it and commits with it.
        """
        if (outer := self._open_session(scope)) is not None:
            with self._joined(outer, scope) as connection:
                yield connection
            return
        with translated_errors(), self.pool.connection() as connection, connection.transaction():
            set_workspace(connection, scope.workspace_id)
            session = Session(scope, connection, self.pool)
            token = SESSION.set(session)
            try:
                yield connection
            finally:
                SESSION.reset(token)
        if session.has_appended:
            self.after_append()

    def _open_session(self, scope: Scope) -> Session | None:
        """The session of this recorder's open transaction in this thread and workspace, if any."""
        session = SESSION.get()
        if session is None or session.pool is not self.pool:
            return None
        return session if session.scope.workspace_id == scope.workspace_id else None

    @contextmanager
    def _joined(self, outer: Session, scope: Scope) -> Iterator[Connection]:
        """Join a transaction by a savepoint, so that a failure leaves the earlier work intact."""
        assert outer.connection is not None
        session = Session(scope, outer.connection, self.pool)
        token = SESSION.set(session)
        try:
            with translated_errors(), outer.connection.transaction():
                yield outer.connection
        finally:
            SESSION.reset(token)
        outer.has_appended = outer.has_appended or session.has_appended

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        *,
        extras: Sequence[Mapping[str, str]] | None = None,
        **kwargs: Any,
    ) -> Sequence[int] | None:
        """Append events and return their positions.

        extras: metadata that is added to the scope's, one mapping for each event. Raises the
        library's `IntegrityError` if a stream already has one of the versions, and
        `OperationalError` if the database cannot be reached or a bounded wait times out.
        """
        if not stored_events:
            return []
        session = current_session()
        append = _append_statement(stored_events, session.scope, extras)
        with translated_errors():
            if session.connection is not None:
                session.has_appended = True
                return self._append(session.connection, *append)
            with self._connection(session) as connection:
                positions = self._append(connection, *append)
        self.after_append()
        return positions

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Read the events of a stream in the current workspace, in order of version."""
        workspace_id = current_session().scope.workspace_id
        parameters = {
            "workspace": workspace_id,
            "stream": originator_id,
            "gt": gt or 0,
            "lte": MAX_VERSION if lte is None else lte,
            "limit": limit,
        }
        with translated_errors(), self._reading(workspace_id) as connection:
            rows = connection.execute(
                SELECT_STREAM_BACKWARD if desc else SELECT_STREAM_FORWARD, parameters
            ).fetchall()
        return [
            LogEvent(
                originator_id=originator_id,
                originator_version=version,
                topic=topic,
                state=data,
                occurred_at=occurred_at,
                account_id=account_id,
                workspace_id=workspace_id,
            )
            for version, topic, data, occurred_at, account_id in rows
        ]

    def select_streams(self, ids: Iterable[UUID]) -> list[TupleRow]:
        """Read the events of these streams in the current workspace, in one round trip.

        Each row has stream, version, topic, data, time of occurrence and account, by stream and
        version. Raises the library's `OperationalError` as `insert_events` does.
        """
        return self._select(SELECT_STREAMS_OF_MANY, streams=array(map(str, ids)))

    def select_stream_from(self, stream_id: UUID, version: int) -> list[TupleRow]:
        """As `select_streams`, for the events of one stream from a version on."""
        return self._select(SELECT_STREAM_FROM, stream=str(stream_id), version=version)

    def _select(self, statement: LiteralString, **parameters: Any) -> list[TupleRow]:
        session = current_session()
        with translated_errors(), self._connection(session) as connection:
            parameters["workspace"] = str(session.scope.workspace_id)
            return connection.execute(statement, parameters, prepare=True).fetchall()

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Read events of the current workspace in order of position, without stepping over any."""
        workspace_id = current_session().scope.workspace_id
        with translated_errors(), self._reading(workspace_id) as connection:
            readable = readable_position(connection)
            rows = connection.execute(
                SELECT_NOTIFICATIONS,
                {
                    "workspace": workspace_id,
                    "start": (start or 0) + (0 if inclusive_of_start else 1),
                    "stop": min(readable, MAX_POSITION if stop is None else stop),
                    "topics": list(topics),
                    "limit": limit,
                },
            ).fetchall()
        return [
            LogNotification(
                id=position,
                originator_id=stream_id,
                originator_version=version,
                topic=topic,
                state=data,
                occurred_at=occurred_at,
                account_id=account_id,
                workspace_id=workspace_id,
            )
            for position, stream_id, version, topic, data, occurred_at, account_id in rows
        ]

    def max_notification_id(self) -> int | None:
        """The position up to which the log can be read; None if it is empty."""
        with translated_errors(), self.pool.connection() as connection:
            return readable_position(connection) or None

    def taken_position(self) -> int:
        """The last position that was assigned; events below it may not have been committed yet."""
        session = current_session()
        with translated_errors(), self._reading(session.scope.workspace_id) as connection:
            (position,) = connection.execute(SELECT_TAKEN).fetchone() or (0,)
        return int(position)

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Follow the current workspace, by polling."""
        return PollingSubscription(self, gt=gt, topics=topics)

    def _append(
        self, connection: Connection, statement: LiteralString, parameters: tuple[Any, ...]
    ) -> list[int]:
        started = time.perf_counter()
        try:
            rows = connection.execute(statement, parameters, prepare=True).fetchall()
        except InsufficientPrivilege:
            if statement != APPEND_KEYS:
                raise
            raise KeyNotAccepted from None
        self.observe_append(time.perf_counter() - started)
        return [row[0] for row in rows]

    @contextmanager
    def _connection(self, session: Session) -> Iterator[Connection]:
        """The connection of the open transaction, or one on which each statement is its own.

        A statement in autocommit commits, so the pool has nothing to commit.
        """
        if session.connection is not None:
            yield session.connection
            return
        connection = self.pool.getconn()
        try:
            yield connection
        finally:
            self.pool.putconn(connection)

    @contextmanager
    def _reading(self, workspace_id: UUID) -> Iterator[Connection]:
        session = current_session()
        if session.connection is not None:
            yield session.connection
            return
        # In read committed, each statement sees everything that was committed before it.
        with self.pool.connection() as connection, connection.transaction():
            set_workspace(connection, workspace_id)
            yield connection


def _append_statement(
    events: Sequence[StoredEvent], scope: Scope, extras: Sequence[Mapping[str, str]] | None
) -> tuple[LiteralString, tuple[Any, ...]]:
    """The statement that appends these events, and its parameters.

    The data of an event is already JSON and goes into the batch unparsed.
    """
    metadata = scope.metadata()
    credential = scope.credential if events[0].topic.startswith(KEY_TOPICS) else None
    if len(events) == 1 and credential is None:
        meta = {**metadata, **extras[0]} if extras else metadata
        return APPEND_ONE, single_event(scope.workspace_id, events[0], meta)
    batch = [batch_row(each) for each in events]
    if extras is not None:
        for each, extra in zip(batch, extras, strict=True):
            each["meta"] = {**metadata, **extra}
        return APPEND_EACH, (scope.workspace_id, orjson.dumps(batch).decode())
    parameters = (
        scope.workspace_id,
        orjson.dumps(batch).decode(),
        orjson.dumps(metadata).decode(),
    )
    if credential is not None:
        return APPEND_KEYS, (*parameters, credential.key_id, credential.secret)
    return APPEND, parameters


def single_event(
    workspace_id: UUID, event: StoredEvent, metadata: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The parameters of `APPEND_ONE`."""
    assert isinstance(event, LogEvent), OWN_EVENTS
    return (
        str(workspace_id),  # psycopg sends text faster than ids
        str(event.originator_id),
        event.originator_version,
        event.topic,
        event.account_id and str(event.account_id),
        event.state.decode(),
        orjson.dumps(metadata).decode(),
        event.occurred_at,
    )


def batch_row(event: StoredEvent) -> dict[str, Any]:
    """An event as the appending functions take it in a batch."""
    assert isinstance(event, LogEvent), OWN_EVENTS
    return {
        "stream": event.originator_id,
        "version": event.originator_version,
        "topic": event.topic,
        "account": event.account_id,
        "data": orjson.Fragment(event.state),
        "occurred": event.occurred_at,
    }


class PollingSubscription(Subscription[ApplicationRecorder]):
    """Polls in the thread that iterates, and so in the session of that thread."""

    def __init__(
        self, recorder: ApplicationRecorder, gt: int | None = None, topics: Sequence[str] = ()
    ) -> None:
        super().__init__(recorder, gt, topics)
        self._buffer: deque[Notification] = deque()

    def __next__(self) -> Notification:
        while not self._has_been_stopped and not self._buffer:
            self._buffer.extend(self._page())
            if not self._buffer:
                time.sleep(SUBSCRIPTION_POLL_S)
        if self._has_been_stopped:
            raise StopIteration
        notification = self._buffer.popleft()
        self._last_notification_id = notification.id
        return notification

    def _page(self) -> Sequence[Notification]:
        return self._recorder.select_notifications(
            start=self._last_notification_id,
            limit=SUBSCRIPTION_PAGE,
            topics=self._topics,
            inclusive_of_start=False,
        )
