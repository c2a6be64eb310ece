"""What is kept beside a job's events: that it is open, what it works through, what failed.

Within a transaction of the log (`EventLog.transaction`), and so in one workspace. The tables are in
eventlog/sql/0006_jobs.sql.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

import orjson

from domain.job import ItemError
from eventlog.connections import Connection

CHUNK_ITEMS = 1_000
"""Items of one row of job_items."""

HINT = "annals_jobs"
"""The channel on which workers hear that a job was asked for. Few ask, so it may be notified within
their transactions."""

OPEN = "INSERT INTO open_jobs (workspace_id, job_id, work) VALUES (%s, %s, %s)"
CLOSE = "DELETE FROM open_jobs WHERE workspace_id = %s AND job_id = %s"
IS_OPEN = "SELECT EXISTS (SELECT FROM open_jobs WHERE workspace_id = %s AND job_id = %s)"
DROP_ITEMS = "DELETE FROM job_items WHERE workspace_id = %s AND job_id = %s"
TURN = """
UPDATE open_jobs SET turn_at = clock_timestamp() WHERE workspace_id = %s AND job_id = %s
"""
INSERT_ITEMS = """
INSERT INTO job_items (workspace_id, job_id, first, n, items) VALUES (%s, %s, %s, %s, %s)
"""
# A small parameter is sent as a smallint, and the sum of two is one, too: hence the casts.
SELECT_ITEMS = """
SELECT first, items FROM job_items
 WHERE workspace_id = %(workspace)s AND job_id = %(job)s
   AND first < %(first)s::bigint + %(limit)s AND first + n > %(first)s
 ORDER BY first
"""
INSERT_ERRORS = """
INSERT INTO job_errors (workspace_id, job_id, number, error, kept)
SELECT %s, %s, e.number, e.error, e.kept
  FROM json_to_recordset(%s) AS e(number integer, error json, kept json)
"""


def enqueue(connection: Connection, workspace_id: UUID, job_id: UUID, work: str) -> None:
    """The job waits for workers from now on, and they are told."""
    connection.execute(OPEN, (workspace_id, job_id, work))
    connection.execute(f"NOTIFY {HINT}")


def close(connection: Connection, workspace_id: UUID, job_id: UUID) -> None:
    """The job has ended: nobody looks for it any more, and its items go."""
    connection.execute(CLOSE, (workspace_id, job_id))
    connection.execute(DROP_ITEMS, (workspace_id, job_id))


def is_waiting(connection: Connection, workspace_id: UUID, job_id: UUID) -> bool:
    """Whether the job still is to be worked on."""
    row = connection.execute(IS_OPEN, (workspace_id, job_id)).fetchone()
    return bool(row and row[0])


def note_turn(connection: Connection, workspace_id: UUID, job_id: UUID) -> None:
    """A worker takes the job up: now it is the last in the row."""
    connection.execute(TURN, (workspace_id, job_id))


def keep_items(
    connection: Connection, workspace_id: UUID, job_id: UUID, items: Iterable[Any]
) -> int:
    """Keep what the job works through, each item JSON; how many there are."""
    total = 0
    for chunk in _chunks(items, CHUNK_ITEMS):
        content = orjson.dumps(chunk).decode()
        connection.execute(INSERT_ITEMS, (workspace_id, job_id, total, len(chunk), content))
        total += len(chunk)
    return total


def read_items(
    connection: Connection, workspace_id: UUID, job_id: UUID, first: int, limit: int
) -> list[Any]:
    """Items from number `first` on (from 0), `limit` at the most."""
    parameters = {"workspace": workspace_id, "job": job_id, "first": first, "limit": limit}
    found: list[Any] = []
    for begins, items in connection.execute(SELECT_ITEMS, parameters):
        found += orjson.loads(items)[max(0, first - begins) : first + limit - begins]
    return found


def keep_errors(
    connection: Connection,
    workspace_id: UUID,
    job_id: UUID,
    known: int,
    errors: Sequence[ItemError],
) -> None:
    """Keep the errors of a step; `known` are those of the steps before."""
    if not errors:
        return
    rows = [
        {"number": number, "error": each.shown(), "kept": each.kept}
        for number, each in enumerate(errors, known + 1)
    ]
    connection.execute(INSERT_ERRORS, (workspace_id, job_id, orjson.dumps(rows).decode()))


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
