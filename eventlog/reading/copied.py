"""The output of COPY in large blocks.

psycopg returns one row at a time and takes 1.1 µs for each; here it takes half of that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from eventlog.connections import Connection
from eventlog.libpq.waiting import error_of, flush, next_result, wait


def copied_blocks(
    connection: Connection, statement: sql.Composed, block_rows: int
) -> Generator[bytes]:
    """The rows that `COPY ... TO STDOUT` returns, this many in each block. Raises `psycopg.Error`.

    Each row ends with a line feed. No other thread may execute statements on the connection. If the
    iterator is closed before its end, the statement is cancelled.
    """
    pgconn = connection.pgconn
    pgconn.send_query(statement.as_bytes(connection))
    flush(pgconn)
    has_ended = False
    try:
        _require(pgconn, ExecStatus.COPY_OUT)
        rows: list[memoryview] = []
        for row in _rows(pgconn):
            rows.append(row)
            if len(rows) == block_rows:
                yield b"".join(rows)
                rows.clear()
        _require(pgconn, ExecStatus.COMMAND_OK)
        has_ended = pgconn.get_result() is None
        if rows:  # after the end, so that a reader of one block may leave it
            yield b"".join(rows)
    finally:
        if not has_ended:
            _cancel(connection)


def _rows(pgconn: PGconn) -> Iterator[memoryview]:
    receive = pgconn.get_copy_data
    while True:
        size, row = receive(1)
        if size > 0:
            yield row
        elif size == 0:
            wait(pgconn)
        else:
            return


def _cancel(connection: Connection) -> None:
    """Cancel the statement if it has not ended, and receive what is left of it."""
    pgconn = connection.pgconn
    with contextlib.suppress(psycopg.Error):
        while (result := pgconn.get_result()) is not None:
            if result.status == ExecStatus.COPY_OUT:
                connection.cancel_safe()
                for _ in _rows(pgconn):
                    pass


def _require(pgconn: PGconn, status: ExecStatus) -> None:
    result = next_result(pgconn)
    error = error_of(result)
    if error is not None:
        raise error
    if result.status != status:
        raise psycopg.InterfaceError(f"COPY returned {ExecStatus(result.status).name}")
