"""The current session of a thread: its scope, and the transaction that is open in it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from eventsourcing.persistence import ProgrammingError
from psycopg_pool import ConnectionPool

from eventlog.connections import Connection
from eventlog.scope import Scope


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
