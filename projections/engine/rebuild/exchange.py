"""Exchanging tables that others are reading."""

from __future__ import annotations

from collections.abc import Callable

from eventlog.connections import Connection
from eventlog.retries import LOCK_CONFLICTS, retry_locks

LOCK_WAIT_MS = 500
"""How long an attempt waits for readers of the tables. New readers queue behind it meanwhile."""
ATTEMPTS_MAX = 40
PAUSE_S = 0.1


class TablesInUse(Exception):
    """Readers held locks on the tables at every attempt."""


def exchange_tables(connection: Connection, exchange: Callable[[], None]) -> None:
    """Call `exchange` in a transaction that waits for readers only briefly, until it succeeds.

    Raises `TablesInUse` after `ATTEMPTS_MAX` attempts, and what `exchange` raises.
    """
    try:
        for attempt in retry_locks(ATTEMPTS_MAX, PAUSE_S):
            with attempt, connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
                exchange()
    except LOCK_CONFLICTS:
        raise TablesInUse from None
