"""What the database has to be when all is quiet: by the clients' journals, and by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import psycopg

from eventlog.connections import Connection
from projections.engine.ledger.coverage import verify_all
from tests.support.chaos.checker import Event, Violation, check
from tests.support.chaos.history import Deed
from tests.support.oracle import actual_tables, differences, expected_tables, recorded_events

SHOWN_MAX = 5
"""So many wrong rows are told of; there may be more."""

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


def judge(connection: Connection, deeds: Iterable[Deed]) -> list[Violation]:
    """All that is wrong. Asks as a superuser, when nobody writes or projects any more."""
    rows = recorded_events(connection)
    return [*check(deeds, map(event, rows)), *tables_are_right(connection, rows)]


def event(row: dict[str, Any]) -> Event:
    """A row of the log as the checker wants it."""
    return Event(
        position=row["position"],
        workspace=str(row["workspace_id"]),
        stream=str(row["stream_id"]),
        version=row["stream_version"],
        topic=row["topic"],
        account=None if row["account_id"] is None else str(row["account_id"]),
        data=row["data"],
        op=row["metadata"].get("userAgent", ""),
    )


def tables_are_right(connection: Connection, rows: list[dict[str, Any]]) -> Iterator[Violation]:
    """Nobody is behind, nothing is parked, each event was consumed once, and rows tell history."""
    for found in connection.execute(BEHIND):
        yield Violation("behind", "{} is at {} of {}".format(*found))
    for found in connection.execute(PARKED):
        yield Violation("parked", "{}: {} at {}, {} events: {}".format(*found))
    for found in connection.execute(MISCOUNTED):
        yield Violation("ledger", "{} consumed {} events of {}".format(*found))
    for gap in verify_all(connection):
        yield Violation("ledger", str(gap))
    wrong = differences(expected_tables(rows), actual_tables(connection))
    for difference in wrong[:SHOWN_MAX]:
        yield Violation("row", f"one of {len(wrong)}: {difference}")


def judge_at(url: str, deeds: Iterable[Deed]) -> list[Violation]:
    """As `judge`, on a connection of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        return judge(connection, deeds)
