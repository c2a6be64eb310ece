"""Exchanging tables that others are reading."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from eventlog.connections import Connection

LOCK_WAIT_MS = 500
"""How long an attempt waits for readers of the tables. New readers queue behind it meanwhile."""
ATTEMPTS_MAX = 40
PAUSE_S = 0.1
LOCK_ERRORS = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


class TablesInUse(Exception):
    """Readers held locks on the tables at every attempt."""


def exchange_tables(connection: Connection, exchange: Callable[[], None]) -> None:
    """Call `exchange` in a transaction that waits for readers only briefly, until it succeeds.

    Raises `TablesInUse` after `ATTEMPTS_MAX` attempts, and what `exchange` raises.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(LOCK_ERRORS),
        stop=stop_after_attempt(ATTEMPTS_MAX),
        wait=wait_fixed(PAUSE_S),
    )
    try:
        for attempt in retrying:
            with attempt, connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
                exchange()
    except RetryError:
        raise TablesInUse from None
