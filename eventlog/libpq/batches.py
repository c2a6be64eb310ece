"""Statements that are sent together and make one transaction, in one round trip.

psycopg sends the statements of a pipeline one by one, and each wakes the server: three short ones
with BEGIN and COMMIT take 140 µs, and here 16. Until the client says that the batch ends,
PostgreSQL keeps all statements of it in one transaction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from eventlog.connections import Connection
from eventlog.libpq.waiting import error_of, flush, next_result

Value = str | int | None
BatchStatement = tuple[bytes, Sequence[Value]]
"""A statement with the placeholders `%s`, and a value for each."""

_PLACEHOLDER = re.compile(rb"%s")
_numbers = count(1)
_prepared: WeakKeyDictionary[Connection, dict[bytes, bytes]] = WeakKeyDictionary()
"""For each connection, the names of the statements that its server has prepared."""


def execute_together(
    connection: Connection, statements: Sequence[BatchStatement]
) -> list[PGresult]:
    """Execute statements in one transaction and one round trip; return the result of each.

    If a statement fails, nothing is written and its error is raised as by psycopg. Outside a
    transaction each statement is prepared when it is first executed, so there should be few
    different ones. No other thread may use the connection.
    """
    if connection.info.transaction_status != TransactionStatus.IDLE:
        return _execute(connection, statements, None)
    names = _prepared.setdefault(connection, {})
    try:
        return _execute(connection, statements, names)
    except psycopg.errors.InvalidSqlStatementName:
        # psycopg deallocates all prepared statements of a session when it rolls back.
        names.clear()
        return _execute(connection, statements, names)


def _execute(
    connection: Connection,
    statements: Sequence[BatchStatement],
    names: dict[bytes, bytes] | None,
) -> list[PGresult]:
    pgconn = connection.pgconn
    results: list[PGresult] = []
    error: psycopg.Error | None = None
    has_ended = False
    try:
        pgconn.enter_pipeline_mode()
        for prepares in _queue(pgconn, statements, names):
            result = next_result(pgconn)
            error = error or error_of(result)
            if prepares is None:
                results.append(result)
            elif names is not None and result.status == ExecStatus.COMMAND_OK:
                statement, name = prepares
                names[statement] = name
            if pgconn.get_result() is not None:
                raise psycopg.InterfaceError("a statement of a batch has several results")
        if next_result(pgconn).status != ExecStatus.PIPELINE_SYNC:
            raise psycopg.InterfaceError("a batch has more results than statements")
        pgconn.exit_pipeline_mode()
        has_ended = True
    finally:
        if not has_ended:
            # Its end was not sent, or its results are not known. Without a connection, the server
            # rolls back what it has not committed.
            connection.close()
    if error is not None:
        raise error
    return results


def _queue(
    pgconn: PGconn, statements: Sequence[BatchStatement], names: dict[bytes, bytes] | None
) -> list[tuple[bytes, bytes] | None]:
    """Send all statements and the end of the batch.

    For each result to expect, returns the statement that it prepares and its name, or None.
    """
    queued: list[tuple[bytes, bytes] | None] = []
    new: dict[bytes, bytes] = {}
    for statement, values in statements:
        if names is None:
            pgconn.send_query_params(_numbered(statement), [_text(value) for value in values])
            queued.append(None)
            continue
        name = names.get(statement) or new.get(statement)
        if name is None:
            name = new[statement] = b"annals_%d" % next(_numbers)
            pgconn.send_prepare(name, _numbered(statement))
            queued.append((statement, name))
        pgconn.send_query_prepared(name, [_text(value) for value in values])
        queued.append(None)
    pgconn.pipeline_sync()
    flush(pgconn)
    return queued


def _numbered(statement: bytes) -> bytes:
    """The statement with the placeholders `$1`, `$2`, ..."""
    numbers = count(1)
    return _PLACEHOLDER.sub(lambda _: b"$%d" % next(numbers), statement)


def _text(value: Value) -> bytes | None:
    return None if value is None else str(value).encode()
