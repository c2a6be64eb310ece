"""Circuit breakers kept in PostgreSQL: one state for all processes, by one clock, over restarts."""

from __future__ import annotations

from datetime import datetime

from domain.shared.breaker import Breaker, State
from eventlog.connections import Connection

SELECT = """
SELECT state, failures, wait_s, until, epoch, clock_timestamp()
  FROM circuit_breakers WHERE name = %s
"""
SELECT_ALONE = f"{SELECT} FOR UPDATE"
UPDATE = """
UPDATE circuit_breakers
   SET state = %s, failures = %s::timestamptz[], wait_s = %s, until = %s, epoch = %s
 WHERE name = %s
"""


def load_breaker(connection: Connection, name: str) -> tuple[Breaker, datetime]:
    """The breaker as it is, and the database's time."""
    return _read(connection, SELECT, name)


def lock_breaker(connection: Connection, name: str) -> tuple[Breaker, datetime]:
    """The same; until the end of the transaction nobody else holds it."""
    return _read(connection, SELECT_ALONE, name)


def save_breaker(connection: Connection, name: str, before: Breaker, after: Breaker) -> None:
    """Write down what became of it."""
    if after != before:
        parameters = (after.state, list(after.failures), after.wait_s, after.until, after.epoch)
        connection.execute(UPDATE, (*parameters, name))


def _read(connection: Connection, statement: str, name: str) -> tuple[Breaker, datetime]:
    row = connection.execute(statement.encode(), (name,)).fetchone()
    if row is None:
        raise LookupError(f"there is no circuit breaker {name}")
    state, failures, wait_s, until, epoch, now = row
    return Breaker(State(state), tuple(failures), wait_s, until, epoch), now
