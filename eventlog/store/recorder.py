"""The recorder: events into and out of the `events` table, behind the library's interfaces.

Unlike the stock recorder it takes no table lock and sends no NOTIFY inside the transaction; the
order that followers rely on is kept by announcements (sql/0001_events.sql and docs/adr/0002).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, LiteralString, NoReturn
from uuid import UUID

import orjson
import psycopg
from eventsourcing.persistence import (
    ApplicationRecorder,
    DataError,
    IntegrityError,
    InterfaceError,
    Notification,
    OperationalError,
    PersistenceError,
    ProgrammingError,
    StoredEvent,
    Subscription,
)
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from eventlog.connections import Connection
from eventlog.reading.positions import SELECT_TAKEN, readable_position
from eventlog.scope import Scope
from eventlog.store.mapper import LogEvent, LogNotification

SUBSCRIPTION_POLL_S = 0.1
SUBSCRIPTION_PAGE = 500

APPEND = "SELECT append_events(%s::uuid, %s::json, %s::json)"
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

SELECT_NOTIFICATIONS = """
SELECT position, stream_id, stream_version, topic, data, occurred_at, account_id
  FROM events
 WHERE workspace_id = %(workspace)s AND position >= %(start)s AND position <= %(stop)s
   AND (%(topics)s::text[] = '{}' OR topic = ANY(%(topics)s))
 ORDER BY position LIMIT %(limit)s
"""

WAITED_TOO_LONG = (
    psycopg.OperationalError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    PoolTimeout,
    TooManyRequests,
)

MAX_VERSION = 2**31 - 1
MAX_POSITION = 2**62


@dataclass
class Session:
    """What is current in this thread: the scope, and the connection of an open transaction."""

    scope: Scope
    connection: Connection | None = None
    pool: ConnectionPool[Connection] | None = None
    """From which the connection is."""
    appended: bool = False


_session: ContextVar[Session | None] = ContextVar("annals_session", default=None)


class PostgresLogRecorder(ApplicationRecorder):
    """Appends to and reads from the log. Safe to share between threads.

    Reads and writes act in the workspace of the current session (`scoped`, `transaction`): what
    belongs to another workspace does not exist, by the statement and by row-level security.
    """

    def __init__(
        self,
        pool: ConnectionPool[Connection],
        *,
        after_append: Callable[[], None] = lambda: None,
        observe_append: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """observe_append: told the seconds of each append; of one within a transaction without
        its commit."""
        self.pool = pool
        self.after_append = after_append
        self.observe_append = observe_append

    @contextmanager
    def scoped(self, scope: Scope) -> Iterator[None]:
        """Act in this scope, each read and each append in a transaction of its own.

        Where a transaction in this workspace is open, within that one.
        """
        if (outer := self._open_session(scope)) is not None:
            with self._joined(outer, scope):
                yield
            return
        token = _session.set(Session(scope))
        try:
            yield
        finally:
            _session.reset(token)

    @contextmanager
    def transaction(self, scope: Scope) -> Iterator[Connection]:
        """Act in this scope within one transaction, committed at the end of the block.

        Where one in this workspace is open, this one is a part of it and is committed with it.
        """
        if (outer := self._open_session(scope)) is not None:
            with self._joined(outer, scope) as connection:
                yield connection
            return
        with _translated(), self.pool.connection() as connection, connection.transaction():
            _set_workspace(connection, scope.workspace_id)
            session = Session(scope, connection, self.pool)
            token = _session.set(session)
            try:
                yield connection
            finally:
                _session.reset(token)
        if session.appended:
            self.after_append()

    def _open_session(self, scope: Scope) -> Session | None:
        """The session of a transaction of ours that is open in this thread and workspace."""
        session = _session.get()
        if session is None or session.pool is not self.pool:
            return None
        return session if session.scope.workspace_id == scope.workspace_id else None

    @contextmanager
    def _joined(self, outer: Session, scope: Scope) -> Iterator[Connection]:
        """A savepoint: what fails within can be decided anew without losing what was before."""
        assert outer.connection is not None
        session = Session(scope, outer.connection, self.pool)
        token = _session.set(session)
        try:
            with _translated(), outer.connection.transaction():
                yield outer.connection
        finally:
            _session.reset(token)
        outer.appended = outer.appended or session.appended

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        *,
        extras: Sequence[Mapping[str, str]] | None = None,
        **kwargs: Any,
    ) -> Sequence[int] | None:
        """Append; returns the positions taken.

        `extras`, one for each event, go into their metadata beside what the scope says.

        Raises the library's `IntegrityError` where one of the stream versions is taken,
        `OperationalError` where the database cannot be reached or a bounded wait ran out.
        """
        if not stored_events:
            return []
        session = current_session()
        append = _append_statement(stored_events, session.scope, extras)
        with _translated():
            if session.connection is not None:
                session.appended = True
                return self._append(session.connection, *append)
            # The call is a transaction of its own, so there is nothing for the pool to commit.
            connection = self.pool.getconn()
            try:
                positions = self._append(connection, *append)
            finally:
                self.pool.putconn(connection)
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
        """The events of one stream in the current workspace, in order of version."""
        workspace_id = current_session().scope.workspace_id
        parameters = {
            "workspace": workspace_id,
            "stream": originator_id,
            "gt": gt or 0,
            "lte": MAX_VERSION if lte is None else lte,
            "limit": limit,
        }
        with _translated(), self._reading(workspace_id) as connection:
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

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Events of the current workspace in order of position, none of them ever stepped over."""
        workspace_id = current_session().scope.workspace_id
        with _translated(), self._reading(workspace_id) as connection:
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
        """The position up to which the log can be read; None while it is empty."""
        with _translated(), self.pool.connection() as connection:
            return readable_position(connection) or None

    def taken_position(self) -> int:
        """The last position that was given out; events below may still be on their way."""
        session = current_session()
        with _translated(), self._reading(session.scope.workspace_id) as connection:
            (position,) = connection.execute(SELECT_TAKEN).fetchone() or (0,)
        return int(position)

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Follow the current workspace by polling."""
        return PollingSubscription(self, gt=gt, topics=topics)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """The connection of the open transaction, or one with a transaction for this block."""
        with _translated(), self._reading(current_session().scope.workspace_id) as connection:
            yield connection

    def _append(
        self, connection: Connection, statement: LiteralString, parameters: tuple[Any, ...]
    ) -> list[int]:
        started = time.perf_counter()
        rows = connection.execute(statement, parameters, prepare=True).fetchall()
        self.observe_append(time.perf_counter() - started)
        return [row[0] for row in rows]

    @contextmanager
    def _reading(self, workspace_id: UUID) -> Iterator[Connection]:
        session = current_session()
        if session.connection is not None:
            yield session.connection
            return
        # Read committed: every statement sees what was committed before it began.
        with self.pool.connection() as connection, connection.transaction():
            _set_workspace(connection, workspace_id)
            yield connection


class PollingSubscription(Subscription[PostgresLogRecorder]):
    """Follows by asking, in the thread (and so in the session) of whoever iterates."""

    def __init__(
        self, recorder: PostgresLogRecorder, gt: int | None = None, topics: Sequence[str] = ()
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


def current_session() -> Session:
    """The session of this thread. Raises `ProgrammingError` outside `scoped` and `transaction`."""
    session = _session.get()
    if session is None:
        raise ProgrammingError("the log is read and written inside scoped() or transaction()")
    return session


def _set_workspace(connection: Connection, workspace_id: UUID) -> None:
    connection.execute("SELECT set_config('annals.workspace_id', %s, true)", (str(workspace_id),))


def _append_statement(
    events: Sequence[StoredEvent], scope: Scope, extras: Sequence[Mapping[str, str]] | None
) -> tuple[LiteralString, tuple[Any, ...]]:
    """What appends them: the data of an event goes into the batch as it is."""
    batch: list[dict[str, Any]] = []
    for event in events:
        assert isinstance(event, LogEvent), "the recorder takes the events of its own mapper"
        batch.append(
            {
                "stream": event.originator_id,
                "version": event.originator_version,
                "topic": event.topic,
                "account": event.account_id,
                "data": orjson.Fragment(event.state),
                "occurred": event.occurred_at,
            }
        )
    metadata = scope.metadata()
    if extras is not None:
        for each, extra in zip(batch, extras, strict=True):
            each["meta"] = {**metadata, **extra}
        return APPEND_EACH, (scope.workspace_id, orjson.dumps(batch).decode())
    meta = orjson.dumps(metadata).decode()
    return APPEND, (scope.workspace_id, orjson.dumps(batch).decode(), meta)


@contextmanager
def _translated() -> Iterator[None]:
    """psycopg's errors as the library's, so that nobody above needs to know psycopg."""
    try:
        yield
    except (psycopg.Error, PoolTimeout, TooManyRequests) as error:
        _raise_translated(error)


def _raise_translated(error: Exception) -> NoReturn:
    if isinstance(error, psycopg.IntegrityError):
        # Without the detail, which would tell ids of another workspace.
        raise IntegrityError(error.diag.message_primary or str(error)) from error
    if isinstance(error, WAITED_TOO_LONG):
        raise OperationalError(str(error)) from error
    if isinstance(error, psycopg.InterfaceError):
        raise InterfaceError(str(error)) from error
    if isinstance(error, psycopg.DataError):
        raise DataError(str(error)) from error
    raise PersistenceError(str(error)) from error
