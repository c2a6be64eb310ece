"""Circuit breakers in PostgreSQL: all processes share one state and one clock, across restarts."""

from __future__ import annotations

from datetime import datetime

from domain.shared.breaker import Breaker, State
from eventlog.connections import Connection

SELECT_BREAKER = """
SELECT state, failures, wait_s, until, epoch, clock_timestamp()
  FROM circuit_breakers WHERE name = %s
"""
LOCK_BREAKER = f"{SELECT_BREAKER} FOR UPDATE"
UPDATE_BREAKER = """
UPDATE circuit_breakers
   SET state = %s, failures = %s::timestamptz[], wait_s = %s, until = %s, epoch = %s
 WHERE name = %s
"""


def load_breaker(connection: Connection, name: str) -> tuple[Breaker, datetime]:
    """Return the breaker and the database's time. Raises `LookupError`."""
    return _read(connection, SELECT_BREAKER, name)


def lock_breaker(connection: Connection, name: str) -> tuple[Breaker, datetime]:
    """Lock the breaker until the end of the transaction, and return it with the database's time.

    Raises `LookupError`.
    """
    return _read(connection, LOCK_BREAKER, name)


def save_breaker(connection: Connection, name: str, before: Breaker, after: Breaker) -> None:
    """Save the breaker if it has changed."""
    if after != before:
        parameters = (after.state, list(after.failures), after.wait_s, after.until, after.epoch)
        connection.execute(UPDATE_BREAKER, (*parameters, name))


def _read(connection: Connection, statement: str, name: str) -> tuple[Breaker, datetime]:
    row = connection.execute(statement.encode(), (name,)).fetchone()
    if row is None:
        raise LookupError(f"there is no circuit breaker {name}")
    state, failures, wait_s, until, epoch, now = row
    return Breaker(State(state), tuple(failures), wait_s, until, epoch), now
