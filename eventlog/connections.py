"""Connections to PostgreSQL: pools for writers, and how JSON and times come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psycopg
from psycopg.adapt import Loader
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

Connection = psycopg.Connection[TupleRow]
AsyncConnection = psycopg.AsyncConnection[TupleRow]

CONNECT_TIMEOUT_S = 10
WRITE_STATEMENT_TIMEOUT_MS = 10_000
WRITE_IDLE_TIMEOUT_MS = 5_000
"""A writer that is idle inside its transaction holds followers back no longer than this."""
WRITE_TRANSACTION_TIMEOUT_MS = 15_000
"""And whatever it does no longer than this. The log's trigger sees to both for every client;
set for the session beforehand it has nothing to do (sql/0001_events.sql, limit_writer)."""
TRANSACTION_TIMEOUT_SINCE = 170_000
WRITE_LOCK_TIMEOUT_MS = 5_000
KEEPALIVE_IDLE_S = 2
KEEPALIVE_INTERVAL_S = 1
KEEPALIVES_MAX = 2
"""A follower's machine that vanishes without a word is noticed by the server within 4 s, and what
it held is given to another one."""
WRITE_POOL_MIN = 1
WRITE_POOL_MAX = 16
WRITE_POOL_WAIT_S = 10.0
WRITE_POOL_QUEUE_MAX = 1_000


class RawJsonLoader(Loader):
    """JSON as the bytes that PostgreSQL sent: whoever needs objects parses with orjson."""

    def load(self, data: bytes | bytearray | memoryview) -> bytes:
        return bytes(data)


class TextIdLoader(Loader):
    """UUIDs as text: nobody who follows the log computes with them."""

    def load(self, data: bytes | bytearray | memoryview) -> str:
        return bytes(data).decode()


def raw_json(connection: psycopg.BaseConnection[Any]) -> None:
    """Have this connection return json and jsonb as bytes."""
    connection.adapters.register_loader("json", RawJsonLoader)
    connection.adapters.register_loader("jsonb", RawJsonLoader)


def text_ids(connection: psycopg.BaseConnection[Any]) -> None:
    """Have this connection return UUIDs as text."""
    connection.adapters.register_loader("uuid", TextIdLoader)


def server_settings(**settings: str | int) -> str:
    """Settings of the session as libpq's `options`."""
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def write_pool(
    url: str,
    *,
    max_size: int = WRITE_POOL_MAX,
    configure: Callable[[Connection], None] = raw_json,
) -> ConnectionPool[Connection]:
    """A pool for commands: autocommit, with every wait bounded. Opens in the background."""

    def prepare(connection: Connection) -> None:
        configure(connection)
        if connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
            connection.execute(f"SET transaction_timeout = {WRITE_TRANSACTION_TIMEOUT_MS}")

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
        kwargs={
            "autocommit": True,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "annals-write",
            "options": server_settings(
                TimeZone="UTC",
                statement_timeout=WRITE_STATEMENT_TIMEOUT_MS,
                idle_in_transaction_session_timeout=WRITE_IDLE_TIMEOUT_MS,
                lock_timeout=WRITE_LOCK_TIMEOUT_MS,
            ),
        },
    )


def disable_synchronous_commit(connection: psycopg.Connection[Any]) -> None:
    """Commits of this connection do not wait for the disk.

    For what is derived from the log alone: a crash of the server takes the last moments of rows and
    of the checkpoint that goes with them, together, and they are derived again.
    """
    connection.execute("SET synchronous_commit = off")


def array(items: Iterable[str | int]) -> str:
    """PostgreSQL's text of an array of some names or numbers, to be cast by the statement.

    For what holds no quote and no backslash. Adapting lists item by item takes longer than the
    statements of a projector's step.
    """
    text = '","'.join(map(str, items))
    return f'{{"{text}"}}' if text else "{}"


def follow_connection(url: str, *, application_name: str) -> Connection:
    """A connection for a follower: autocommit, JSON as bytes and ids as text."""
    connection = psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name=application_name,
        options=server_settings(
            TimeZone="UTC",
            tcp_keepalives_idle=KEEPALIVE_IDLE_S,
            tcp_keepalives_interval=KEEPALIVE_INTERVAL_S,
            tcp_keepalives_count=KEEPALIVES_MAX,
        ),
    )
    raw_json(connection)
    text_ids(connection)
    return connection
