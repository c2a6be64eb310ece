"""Connections of writers and followers to PostgreSQL, with their JSON, ids and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from uuid import UUID

import psycopg
from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PersistenceError,
)
from psycopg.adapt import Loader
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout, TooManyRequests

Connection = psycopg.Connection[TupleRow]
AsyncConnection = psycopg.AsyncConnection[TupleRow]

CONNECT_TIMEOUT_S = 10
WRITE_STATEMENT_TIMEOUT_MS = 10_000
WRITE_IDLE_TIMEOUT_MS = 5_000
"""The longest time that a writer may idle in a transaction and so hold followers back."""
WRITE_TRANSACTION_TIMEOUT_MS = 15_000
"""The longest transaction of a writer. The log's trigger enforces both limits for every client, and
is faster if the session has them already (sql/0001_events.sql, limit_writer)."""
TRANSACTION_TIMEOUT_SINCE = 170_000
"""The version of PostgreSQL that introduced transaction_timeout."""
SET_TRANSACTION_TIMEOUT = f"SET transaction_timeout = {WRITE_TRANSACTION_TIMEOUT_MS}"
WRITE_LOCK_TIMEOUT_MS = 5_000
SHARED_LOCK_TIMEOUT_MS = 100
"""The longest wait for a lock in a transaction of several commands. Then each is run by itself, so
that one that has to wait holds the others up no longer."""
SHARED_WRITER = "annals-write-shared"
KEEPALIVE_IDLE_S = 2
KEEPALIVE_INTERVAL_S = 1
KEEPALIVES_MAX = 2
"""With these, the server frees the locks of a follower at most 4 s after its machine vanished."""
PENDING_LIST_MAX = "256kB"
"""How much a follower may add to a GIN index before it sorts that in. Each search reads all of it;
PostgreSQL's 4 MB cost a fifth of a search's time, and sorting them in holds up the projector."""
WRITE_POOL_MIN = 1
WRITE_POOL_MAX = 16
WRITE_POOL_WAIT_S = 10.0
WRITE_POOL_QUEUE_MAX = 1_000
SET_WORKSPACE = "SELECT set_config('annals.workspace_id', %s, true)"
ENTERED = """
WITH entered AS MATERIALIZED (
    SELECT set_config('annals.workspace_id', %(workspace)s::text, true)::uuid AS workspace
)"""
"""Begins a statement that enters a workspace by itself, and so needs one round trip.

Whatever it reads must depend on `entered.workspace`, in a LATERAL subquery that is not merged into
the outer query (it has a limit, an offset or an aggregate) or in a subselect: then it is read after
row-level security knows the workspace. Otherwise it may see nothing; it never sees another
workspace.
"""
UNREACHABLE_OR_TIMED_OUT = (
    psycopg.OperationalError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    PoolTimeout,
    TooManyRequests,
)


class WritesRefused(OperationalError):
    """The database accepts no writes at the moment. Nothing was recorded."""


WRITES_REFUSED = (
    psycopg.errors.DiskFull,
    psycopg.errors.ReadOnlySqlTransaction,
    WritesRefused,
)
"""The errors of a database that cannot or may not write, and still answers reads, by psycopg and as
`translated_errors` raises them."""


class RawJsonLoader(Loader):
    """JSON as the bytes that PostgreSQL sent; callers that need objects parse them with orjson."""

    def load(self, data: bytes | bytearray | memoryview) -> bytes:
        return bytes(data)


class TextIdLoader(Loader):
    """UUIDs as text, because followers only pass them on."""

    def load(self, data: bytes | bytearray | memoryview) -> str:
        return bytes(data).decode()


def raw_json(connection: psycopg.BaseConnection[Any]) -> None:
    """Make the connection return json and jsonb as bytes."""
    connection.adapters.register_loader("json", RawJsonLoader)
    connection.adapters.register_loader("jsonb", RawJsonLoader)


def text_ids(connection: psycopg.BaseConnection[Any]) -> None:
    """Make the connection return UUIDs as text."""
    connection.adapters.register_loader("uuid", TextIdLoader)


def server_settings(**settings: str | int) -> str:
    """Session settings as the value of libpq's `options`."""
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def write_pool(
    url: str,
    *,
    max_size: int = WRITE_POOL_MAX,
    configure: Callable[[Connection], None] = raw_json,
) -> ConnectionPool[Connection]:
    """Make a pool for commands: autocommit, every wait bounded. It opens in the background."""

    def prepare(connection: Connection) -> None:
        configure(connection)
        if _has_transaction_timeout(connection):
            connection.execute(SET_TRANSACTION_TIMEOUT)

    return ConnectionPool(
        url,
        connection_class=psycopg.Connection[TupleRow],
        min_size=min(WRITE_POOL_MIN, max_size),
        max_size=max_size,
        timeout=WRITE_POOL_WAIT_S,
        max_waiting=WRITE_POOL_QUEUE_MAX,
        configure=prepare,
        open=True,
        name="annals-write",
        kwargs=_writer("annals-write", lock_timeout=WRITE_LOCK_TIMEOUT_MS),
    )


def shared_write_pool(url: str) -> AsyncConnectionPool[AsyncConnection]:
    """Make the pool, of one connection, for commands that share transactions. It is not open.

    Its statements have the same parameters in each run, so their plans are kept.
    """

    async def prepare(connection: AsyncConnection) -> None:
        raw_json(connection)
        if _has_transaction_timeout(connection):
            await connection.execute(SET_TRANSACTION_TIMEOUT)

    return AsyncConnectionPool(
        url,
        connection_class=psycopg.AsyncConnection[TupleRow],
        min_size=1,
        max_size=1,
        timeout=WRITE_POOL_WAIT_S,
        configure=prepare,
        open=False,
        name=SHARED_WRITER,
        kwargs=_writer(
            SHARED_WRITER,
            lock_timeout=SHARED_LOCK_TIMEOUT_MS,
            plan_cache_mode="force_generic_plan",
        ),
    )


def _writer(name: str, **settings: str | int) -> dict[str, Any]:
    return {
        "autocommit": True,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": name,
        "options": server_settings(
            TimeZone="UTC",
            statement_timeout=WRITE_STATEMENT_TIMEOUT_MS,
            idle_in_transaction_session_timeout=WRITE_IDLE_TIMEOUT_MS,
            **settings,
        ),
    }


def _has_transaction_timeout(connection: psycopg.BaseConnection[Any]) -> bool:
    return connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE


def set_workspace(connection: psycopg.Connection[Any], workspace_id: UUID) -> None:
    """Restrict the transaction to a workspace by row-level security."""
    connection.execute(SET_WORKSPACE, (str(workspace_id),))


def disable_synchronous_commit(connection: psycopg.Connection[Any]) -> None:
    """Let commits of this connection return before they are on disk.

    This is safe for rows that are derived from the log. A crash of the server loses the last rows
    together with their checkpoint, and they are derived again.
    """
    connection.execute("SET synchronous_commit = off")


def array(items: Iterable[str | int]) -> str:
    """Write PostgreSQL's text of an array, which the statement casts to its type.

    The items must not contain quotes or backslashes. This is faster than psycopg, which adapts
    lists item by item.
    """
    text = '","'.join(map(str, items))
    return f'{{"{text}"}}' if text else "{}"


def follow_connection(url: str, *, application_name: str) -> Connection:
    """Connect for a follower: autocommit, JSON as bytes and ids as text."""
    connection = psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name=application_name,
        options=server_settings(
            TimeZone="UTC",
            gin_pending_list_limit=PENDING_LIST_MAX,
            tcp_keepalives_idle=KEEPALIVE_IDLE_S,
            tcp_keepalives_interval=KEEPALIVE_INTERVAL_S,
            tcp_keepalives_count=KEEPALIVES_MAX,
        ),
    )
    raw_json(connection)
    text_ids(connection)
    return connection


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the eventsourcing library's errors in place of psycopg's."""
    try:
        yield
    except (psycopg.Error, PoolTimeout, TooManyRequests) as error:
        _raise_translated(error)


def _raise_translated(error: Exception) -> NoReturn:
    if isinstance(error, psycopg.IntegrityError):
        # The detail is left out: it may show ids of another workspace.
        raise IntegrityError(error.diag.message_primary or str(error)) from error
    if isinstance(error, WRITES_REFUSED):
        raise WritesRefused(str(error)) from error
    if isinstance(error, UNREACHABLE_OR_TIMED_OUT):
        raise OperationalError(str(error)) from error
    if isinstance(error, psycopg.InterfaceError):
        raise InterfaceError(str(error)) from error
    if isinstance(error, psycopg.DataError):
        raise DataError(str(error)) from error
    raise PersistenceError(str(error)) from error
