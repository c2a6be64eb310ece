"""Waiting for libpq, for what psycopg does one statement or one row at a time."""

from __future__ import annotations

import select

import psycopg
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

RECEIVE = select.POLLIN
RECEIVE_OR_SEND = select.POLLIN | select.POLLOUT


def flush(pgconn: PGconn) -> None:
    """Send what is in the buffer. The server may wait until its results are received."""
    while pgconn.flush():
        wait(pgconn, RECEIVE_OR_SEND)


def wait(pgconn: PGconn, events: int = RECEIVE) -> None:
    """Wait for the socket, and receive what has arrived. Notifications are kept for psycopg."""
    poll = select.poll()
    poll.register(pgconn.socket, events)
    poll.poll()
    pgconn.consume_input()
    while notification := pgconn.notifies():
        if pgconn.notify_handler:
            pgconn.notify_handler(notification)


def next_result(pgconn: PGconn) -> PGresult:
    """Wait for the next result. Raises `psycopg.OperationalError` if the connection is lost."""
    while pgconn.is_busy():
        wait(pgconn)
    result = pgconn.get_result()
    if result is None or pgconn.status != ConnStatus.OK:
        raise psycopg.OperationalError("the connection is lost")
    return result


def error_of(result: PGresult) -> psycopg.Error | None:
    """The error that a result reports."""
    if result.status != ExecStatus.FATAL_ERROR:
        return None
    return psycopg.errors.error_from_result(result)
