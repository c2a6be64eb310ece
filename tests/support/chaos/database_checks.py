"""Checks of the database after recovery: log, read tables, coverage ledger, parked entities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import psycopg

from eventlog.connections import Connection
from projections.engine.ledger.coverage import verify_all
from tests.support.chaos.checker import check
from tests.support.chaos.checker.history import Event, Violation
from tests.support.chaos.checker.wholes import GatewayMessage
from tests.support.chaos.journal import Exchange
from tests.support.oracle import (
    actual_tables,
    assert_claims_match_log,
    differences,
    expected_tables,
    recorded_events,
)

CLAIMS_SHOWN_MAX_CHARS = 1_000
SHOWN_MAX = 5
"""Maximum number of wrong rows that are reported."""

BEHIND = """
SELECT name, position, (SELECT coalesce(max(position), 0) FROM events)
  FROM projections
 WHERE name NOT LIKE '%:%' AND position < (SELECT coalesce(max(position), 0) FROM events)
"""
MISCOUNTED = """
SELECT p.name, coalesce(c.n, 0), e.n
  FROM projections AS p
  LEFT JOIN (SELECT projection, sum(n) AS n FROM projection_coverage GROUP BY projection) AS c
       ON c.projection = p.name,
       (SELECT count(*) AS n FROM events) AS e
 WHERE p.name NOT LIKE '%:%' AND coalesce(c.n, 0) <> e.n
"""
PARKED = """
SELECT projection, entity_id, position, events, error FROM projection_parked
 WHERE projection NOT LIKE '%:%' ORDER BY projection, position
"""


def check_database(
    connection: Connection,
    exchanges: Iterable[Exchange],
    messages: Iterable[GatewayMessage] | None = None,
) -> list[Violation]:
    """Return all violations. Needs a superuser, and no writers or projectors at work.

    messages: those that the SMS gateway accepted; None if there was none.
    """
    rows = recorded_events(connection)
    return [*check(exchanges, map(event, rows), messages), *check_tables(connection, rows)]


def event(row: dict[str, Any]) -> Event:
    """Convert a row of the log for the checker."""
    return Event(
        position=row["position"],
        workspace=str(row["workspace_id"]),
        stream=str(row["stream_id"]),
        version=row["stream_version"],
        topic=row["topic"],
        account=None if row["account_id"] is None else str(row["account_id"]),
        data=row["data"],
        op=row["metadata"].get("userAgent", ""),
        undoes=int(row["metadata"].get("undoesPosition", 0)) or None,
    )


def check_tables(connection: Connection, rows: list[dict[str, Any]]) -> Iterator[Violation]:
    """Projections are up to date, nothing is parked, each event was consumed once, rows match."""
    for found in connection.execute(BEHIND):
        yield Violation("behind", "{} is at {} of {}".format(*found))
    for found in connection.execute(PARKED):
        yield Violation("parked", "{}: {} at {}, {} events: {}".format(*found))
    for found in connection.execute(MISCOUNTED):
        yield Violation("ledger", "{} consumed {} events of {}".format(*found))
    for gap in verify_all(connection):
        yield Violation("ledger", str(gap))
    try:
        assert_claims_match_log(connection)
    except AssertionError as error:
        yield Violation("claims", str(error)[:CLAIMS_SHOWN_MAX_CHARS])
    wrong = differences(expected_tables(rows), actual_tables(connection))
    for difference in wrong[:SHOWN_MAX]:
        yield Violation("row", f"one of {len(wrong)}: {difference}")


def check_database_at(
    url: str, exchanges: Iterable[Exchange], messages: Iterable[GatewayMessage]
) -> list[Violation]:
    """Run `check_database` on a new connection to this URL."""
    with psycopg.connect(url, autocommit=True) as connection:
        return check_database(connection, exchanges, messages)
