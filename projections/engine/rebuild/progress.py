"""What is written down of a rebuild while it runs: its state, how far it is, how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eventlog.connections import Connection

MESSAGE_MAX_CHARS = 2_000

Say = Callable[[str, int, int], None]
"""Told of each step: its name, events processed, events in all."""

REQUEST = """
INSERT INTO projection_rebuilds (projection, version, state, requested_by)
VALUES (%s, %s, %s, %s) RETURNING id
"""
BEGIN = """
UPDATE projection_rebuilds
   SET total = %s, processed = 0, started_at = clock_timestamp(),
       state = CASE state WHEN 'cancelling' THEN state ELSE 'building' END
 WHERE id = ANY(%s)
"""
NOTE = """
UPDATE projection_rebuilds
   SET processed = processed + %s, position = greatest(position, %s),
       state = CASE state WHEN 'cancelling' THEN state ELSE coalesce(%s, state) END,
       updated_at = clock_timestamp()
 WHERE id = ANY(%s) AND ended_at IS NULL
RETURNING state, processed, total
"""
END = """
UPDATE projection_rebuilds
   SET state = %s, message = %s, summary = %s,
       ended_at = clock_timestamp(), updated_at = clock_timestamp()
 WHERE id = ANY(%s) AND ended_at IS NULL
"""


class Cancelled(Exception):
    """Whoever asked for the rebuild does not want it any more."""


class RebuildProgress:
    """The written progress of one rebuild of one or more projections."""

    def __init__(self, connection: Connection, ids: Mapping[str, int], say: Say) -> None:
        self._connection = connection
        self.ids = dict(ids)
        self._say = say

    def begin(self, total: int) -> None:
        """There are this many events to read."""
        self._connection.execute(BEGIN, (total, list(self.ids.values())))

    def step(self, state: str) -> None:
        """A new step begins. Raises `Cancelled`."""
        self.note(state=state)

    def note(self, events: int = 0, position: int = 0, state: str | None = None) -> None:
        """This many more events were read. Raises `Cancelled`."""
        rows = note(self._connection, list(self.ids.values()), events, position, state)
        if rows:
            self._say(*rows[0])

    def end(
        self, state: str, message: str = "", *, summary: str = "", name: str | None = None
    ) -> None:
        """All of it, or one projection, has ended so; `summary` tells nothing of any row."""
        ids = list(self.ids.values()) if name is None else [self.ids[name]]
        self._connection.execute(END, (state, message[:MESSAGE_MAX_CHARS], summary, ids))


def note(
    connection: Connection, ids: list[int], events: int, position: int = 0, state: str | None = None
) -> list[tuple[str, int, int]]:
    """Add to the progress; raises `Cancelled` where somebody asked to stop."""
    rows = connection.execute(NOTE, (events, position, state, ids)).fetchall()
    if any(row[0] == "cancelling" for row in rows):
        raise Cancelled
    return [(row[0], row[1], row[2]) for row in rows]


def request(
    connection: Connection,
    projection: str,
    version: str,
    *,
    state: str = "building",
    requested_by: str = "",
) -> int:
    """Write down that a rebuild is wanted; its id."""
    row = connection.execute(REQUEST, (projection, version, state, requested_by)).fetchone()
    assert row is not None
    return int(row[0])


def cancel(connection: Connection, projection: str) -> bool:
    """Ask a rebuild that runs, or waits to run, to stop; whether there was one."""
    cancelled = connection.execute(
        """UPDATE projection_rebuilds SET state = 'cancelling'
            WHERE projection = %s AND ended_at IS NULL""",
        (projection,),
    )
    return cancelled.rowcount > 0
