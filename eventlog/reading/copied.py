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
    is_copying = False
    try:
        _require(pgconn, ExecStatus.COPY_OUT)
        is_copying = True
        yield from _blocks(pgconn, block_rows)
        is_copying = False
        _require(pgconn, ExecStatus.COMMAND_OK)
    finally:
        with contextlib.suppress(psycopg.Error):
            if is_copying:
                connection.cancel_safe()
                for _ in _blocks(pgconn, block_rows):
                    pass
            while pgconn.get_result() is not None:
                pass


def _blocks(pgconn: PGconn, block_rows: int) -> Iterator[bytes]:
    receive = pgconn.get_copy_data
    rows: list[memoryview] = []
    while True:
        size, row = receive(1)
        if size > 0:
            rows.append(row)
            if len(rows) == block_rows:
                yield b"".join(rows)
                rows.clear()
        elif size == 0:
            wait(pgconn)
        else:
            break
    if rows:
        yield b"".join(rows)


def _require(pgconn: PGconn, status: ExecStatus) -> None:
    result = next_result(pgconn)
    error = error_of(result)
    if error is not None:
        raise error
    if result.status != status:
        raise psycopg.InterfaceError(f"COPY returned {ExecStatus(result.status).name}")
