"""Tables beside a job's events: which jobs are open, the items of a job, its errors.

All functions run within a transaction of the log (`EventLog.transaction`), which limits them to one
workspace. The tables are in eventlog/sql/0006_jobs.sql.
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
"""Items per row of job_items."""

JOBS_CHANNEL = "annals_jobs"
"""The NOTIFY channel for new jobs. Requests are rare, so NOTIFY may run within their transactions,
although it makes commits wait for each other."""

# Make a job visible to workers.
INSERT_OPEN_JOB = "INSERT INTO open_jobs (workspace_id, job_id, work) VALUES (%s, %s, %s)"
# Hide a job that has ended from workers, and delete its items.
CLOSE_JOB = "SELECT close_job(%s, %s)"
HAS_OPEN_JOB = "SELECT EXISTS (SELECT FROM open_jobs WHERE workspace_id = %s AND job_id = %s)"
# Count the open jobs of the workspace, up to a number.
COUNT_OPEN_JOBS = """
SELECT count(*) FROM (SELECT FROM open_jobs WHERE workspace_id = %s LIMIT %s) AS counted
"""
# Note the time of a run, and that it has done nothing yet; workers take the job with the oldest run
# first.
RECORD_RUN = """
UPDATE open_jobs SET turn_at = clock_timestamp(), fruitless_runs = fruitless_runs + 1
 WHERE workspace_id = %s AND job_id = %s RETURNING fruitless_runs
"""
RECORD_SUCCESS = """
UPDATE open_jobs SET fruitless_runs = 0
 WHERE workspace_id = %s AND job_id = %s AND fruitless_runs > 0
"""
INSERT_ITEMS = """
INSERT INTO job_items (workspace_id, job_id, first, n, items) VALUES (%s, %s, %s, %s, %s)
"""
# Read the chunks that overlap the requested range. The casts are needed because psycopg sends a
# small integer as smallint, and the sum of two smallints would overflow.
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
    """Make the job available to workers and notify them."""
    connection.execute(INSERT_OPEN_JOB, (workspace_id, job_id, work))
    connection.execute(f"NOTIFY {JOBS_CHANNEL}")


def close_job(connection: Connection, workspace_id: UUID, job_id: UUID) -> None:
    """Remove a job whose end was appended from the open jobs, and delete its items."""
    connection.execute(CLOSE_JOB, (workspace_id, job_id))


def is_open(connection: Connection, workspace_id: UUID, job_id: UUID) -> bool:
    """Whether the job has not ended yet."""
    row = connection.execute(HAS_OPEN_JOB, (workspace_id, job_id)).fetchone()
    return bool(row and row[0])


def count_open(connection: Connection, workspace_id: UUID, most: int) -> int:
    """Return the number of jobs of the workspace that have not ended, at most `most`."""
    row = connection.execute(COUNT_OPEN_JOBS, (workspace_id, most)).fetchone()
    return int(row[0]) if row else 0


def record_run(connection: Connection, workspace_id: UUID, job_id: UUID) -> int:
    """Note that a run begins now: the job moves to the end of the queue.

    Returns the number of consecutive runs that have not done anything, this one included.
    """
    row = connection.execute(RECORD_RUN, (workspace_id, job_id)).fetchone()
    return int(row[0]) if row else 0


def record_success(connection: Connection, workspace_id: UUID, job_id: UUID) -> None:
    """Note that the present run of the job has done something."""
    connection.execute(RECORD_SUCCESS, (workspace_id, job_id))


def save_items(
    connection: Connection, workspace_id: UUID, job_id: UUID, items: Iterable[Any]
) -> int:
    """Save the items of a job, each of them JSON, and return their number."""
    total = 0
    for chunk in _chunks(items, CHUNK_ITEMS):
        content = orjson.dumps(chunk).decode()
        connection.execute(INSERT_ITEMS, (workspace_id, job_id, total, len(chunk), content))
        total += len(chunk)
    return total


def read_items(
    connection: Connection, workspace_id: UUID, job_id: UUID, first: int, limit: int
) -> list[Any]:
    """Return at most `limit` items, starting with number `first` (counted from 0)."""
    parameters = {"workspace": workspace_id, "job": job_id, "first": first, "limit": limit}
    found: list[Any] = []
    for chunk_first, items in connection.execute(SELECT_ITEMS, parameters):
        found += orjson.loads(items)[max(0, first - chunk_first) : first + limit - chunk_first]
    return found


def save_errors(
    connection: Connection,
    workspace_id: UUID,
    job_id: UUID,
    errors_before: int,
    errors: Sequence[ItemError],
) -> None:
    """Save the errors of a step; `errors_before` is the number of errors of earlier steps."""
    if not errors:
        return
    rows = [
        {"number": number, "error": each.shown(), "kept": each.kept}
        for number, each in enumerate(errors, errors_before + 1)
    ]
    connection.execute(INSERT_ERRORS, (workspace_id, job_id, orjson.dumps(rows).decode()))


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
