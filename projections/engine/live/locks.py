"""Which process works on a projection: its lock, its recorded holder, and handover to a swap.

The engine that follows the log, and a swap, hold a projection's lock exclusively; the consumers of
Kafka share it (docs/adr/0006).
"""

from __future__ import annotations

import contextlib

import psycopg

from eventlog.connections import Connection
from eventlog.locks import PROJECTION_LOCK, REBUILD_LOCK, TRY_LOCK, UNLOCK

PROBLEM_MAX_CHARS = 500

TRY_LOCK_SHARED = "SELECT pg_try_advisory_lock_shared(%s, hashtext(%s))"
UNLOCK_SHARED = "SELECT pg_advisory_unlock_shared(%s, hashtext(%s))"
SET_HOLDER = """
UPDATE projections SET holder = %s, wanted_version = coalesce(%s, wanted_version), problem = ''
 WHERE name = %s
"""
RECORD_PROBLEM = """
UPDATE projections SET problem = %s, wanted_version = coalesce(%s, wanted_version), holder = NULL
 WHERE name = %s
"""
# A swap whose process died leaves the state 'handover' behind, so its rebuild lock must be held.
# pg_locks shows a lock's keys as oids, in which a negative integer appears as a large number.
SELECT_HANDOVERS = f"""
SELECT name FROM projections AS p
 WHERE state = 'handover' AND EXISTS (
       SELECT FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.classid = {REBUILD_LOCK}
          AND l.objid::bigint = hashtext(p.name)::bigint & 4294967295)
"""


def lock_projection(connection: Connection, name: str, *, shared: bool = False) -> bool:
    """Take a projection's lock for this connection; False if another process holds it."""
    statement = TRY_LOCK_SHARED if shared else TRY_LOCK
    row = connection.execute(statement, (PROJECTION_LOCK, name)).fetchone()
    return bool(row and row[0])


def unlock_projection(connection: Connection, name: str, *, shared: bool = False) -> None:
    """Release a projection's lock."""
    connection.execute(UNLOCK_SHARED if shared else UNLOCK, (PROJECTION_LOCK, name))


def release_locks(connection: Connection) -> None:
    """Release all locks of this connection, before it closes.

    Without this, PostgreSQL releases them only once it has noticed that the connection is closed,
    and the next engine may find the projections locked. A lost connection holds no locks.
    """
    with contextlib.suppress(psycopg.Error):
        connection.execute("SELECT pg_advisory_unlock_all()")


def set_holder(connection: Connection, name: str, holder: str, version: str | None) -> None:
    """Record the process that works on the projection and the version of its code, if known."""
    connection.execute(SET_HOLDER, (holder, version, name))


def record_problem(connection: Connection, name: str, problem: str, version: str | None) -> None:
    """Record that no process works on the projection, why, and the version of the running code.

    problem: empty if the tables are whole, but their rows were made by other code.
    """
    connection.execute(RECORD_PROBLEM, (problem[:PROBLEM_MAX_CHARS], version, name))


def load_handovers(connection: Connection) -> set[str]:
    """The projections that a swap waits for; their holders must release them."""
    return {row[0] for row in connection.execute(SELECT_HANDOVERS, prepare=True)}
