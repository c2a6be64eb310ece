"""The number of events in the log, and whether a workspace has events in a span."""

from __future__ import annotations

from eventlog.connections import Connection

COUNT_ALL = "SELECT count(*) FROM events"
COUNT_UPTO = "SELECT count(*) FROM events WHERE position <= %s"
SELECT_SIZE = "SELECT coalesce(max(position), 0), count(*) FROM events"


def has_events(after: str, upto: str, workspace_id: str) -> str:
    """SQL: whether the workspace has an event between two positions, all three given as SQL."""
    return (
        f"EXISTS (SELECT FROM events AS e WHERE e.position > {after} AND e.position <= {upto}"
        f" AND e.workspace_id = {workspace_id})"
    )


def count_events(connection: Connection, *, upto: int | None = None) -> int:
    """Count the events of the log, or those up to a position."""
    statement, parameters = (COUNT_ALL, ()) if upto is None else (COUNT_UPTO, (upto,))
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return int(row[0])


def log_size(connection: Connection) -> tuple[int, int]:
    """The position of the last event, and the number of events."""
    row = connection.execute(SELECT_SIZE).fetchone()
    assert row is not None
    return row[0], row[1]
