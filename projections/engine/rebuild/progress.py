"""The recorded progress of a rebuild: its state, the events processed, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from eventlog.connections import Connection

MESSAGE_MAX_CHARS = 2_000

BuildKind = Literal["rebuild", "verify"]

OnStep = Callable[[str, int, int], None]
"""Called with the name of the current step, the events processed and their total."""

REQUEST = """
INSERT INTO projection_rebuilds (projection, kind, version, state, requested_by, replaces, reason)
VALUES (%s, %s, %s, 'building', %s, %s, %s) RETURNING id
"""
BEGIN = """
UPDATE projection_rebuilds
   SET total = %s, processed = 0, started_at = clock_timestamp(),
       state = CASE state WHEN 'cancelling' THEN state ELSE 'building' END
 WHERE id = ANY(%s)
"""
# The rows are locked in the order of their ids, so that the workers of a rebuild cannot deadlock.
ADD_PROGRESS = """
WITH locked AS MATERIALIZED (
    SELECT id AS locked_id FROM projection_rebuilds
     WHERE id = ANY(%s) AND ended_at IS NULL ORDER BY id FOR UPDATE
)
UPDATE projection_rebuilds
   SET processed = processed + %s, position = greatest(position, %s),
       state = CASE state WHEN 'cancelling' THEN state ELSE coalesce(%s, state) END,
       updated_at = clock_timestamp()
  FROM locked WHERE id = locked_id
RETURNING state, processed, total
"""
END = """
UPDATE projection_rebuilds
   SET state = %s, message = %s, summary = %s,
       ended_at = clock_timestamp(), updated_at = clock_timestamp()
 WHERE id = ANY(%s) AND ended_at IS NULL
"""


class Cancelled(Exception):
    """The rebuild was cancelled."""


class RebuildProgress:
    """The recorded progress of one rebuild of one or more projections."""

    def __init__(self, connection: Connection, ids: Collection[int], on_step: OnStep) -> None:
        self._connection = connection
        self._ids = list(ids)
        self._on_step = on_step

    def begin(self, total: int) -> None:
        """Record the start and the number of events to read."""
        self._connection.execute(BEGIN, (total, self._ids))

    def step(self, state: str) -> None:
        """Record the start of a step. Raises `Cancelled`."""
        self.add(state=state)

    def add(self, events: int = 0, position: int = 0, state: str | None = None) -> None:
        """Add processed events, and report the step. Raises `Cancelled`."""
        rows = add_progress(self._connection, self._ids, events, position, state)
        if rows:
            self._on_step(*rows[0])

    def end(self, state: str, message: str = "", *, summary: str = "") -> None:
        """Record the end. `summary` is the message without anything from a row."""
        self._connection.execute(END, (state, message[:MESSAGE_MAX_CHARS], summary, self._ids))


def add_progress(
    connection: Connection, ids: list[int], events: int, position: int = 0, state: str | None = None
) -> list[tuple[str, int, int]]:
    """Add processed events to rebuilds. Return state, processed and total of each.

    Raises `Cancelled` if one of them is to be cancelled.
    """
    rows = connection.execute(ADD_PROGRESS, (ids, events, position, state)).fetchall()
    if any(row[0] == "cancelling" for row in rows):
        raise Cancelled
    return [(row[0], row[1], row[2]) for row in rows]


def record_request(
    connection: Connection,
    projection: str,
    kind: BuildKind,
    version: str,
    *,
    requested_by: str,
    replace_because: str | None,
) -> int:
    """Record a rebuild or a check that was not requested as a job. Return its id."""
    replaces, reason = replace_because is not None, replace_because or ""
    parameters = (projection, kind, version, requested_by, replaces, reason)
    row = connection.execute(REQUEST, parameters).fetchone()
    assert row is not None
    return int(row[0])


def cancel(connection: Connection, projection: str) -> bool:
    """Ask the unfinished jobs of a projection, of any kind, to stop. False if there is none."""
    cancelled = connection.execute(
        """UPDATE projection_rebuilds SET state = 'cancelling'
            WHERE projection = %s AND ended_at IS NULL""",
        (projection,),
    )
    return cancelled.rowcount > 0
