"""The processes and sessions of a rebuild, which must not write into the tables of the next one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait

import psycopg

from eventlog.connections import Connection
from eventlog.locks import REBUILD_LOCK, SHADOW_LOCK, UNLOCK
from projections.engine.rebuild.refusal import RebuildRefused

LOST_CLIENT_CHECK_MS = 500
"""How often the server checks during a statement whether the rebuild's process still exists."""
REBUILD_LOCK_WAIT_S = 3.0
"""How long a rebuild waits for the server to notice that the process of an earlier one is gone."""
SESSION_END_WAIT_S = 30.0
"""How long a rebuild waits for the sessions of an earlier one to end after it disconnected them."""

HOLD_SHADOW = "SELECT pg_advisory_lock_shared(%s, hashtext(%s))"
# pg_locks shows a lock's keys as oids, in which a negative integer appears as a large number.
DISCONNECT_HOLDERS = """
SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l
 WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.pid <> pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.classid = %s AND l.objid::bigint = hashtext(%s)::bigint & 4294967295
"""


def fold_processes(workers: int) -> ProcessPoolExecutor:
    """A pool of new processes that end as soon as this process has ended, however it ended."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_parent)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watcher", daemon=True).start()


def end_with_client(connection: Connection) -> None:
    """Have the server end this session soon after its process is gone, also within a statement.

    A server on a system that cannot check this notices it at the end of the statement.
    """
    with contextlib.suppress(psycopg.errors.InvalidParameterValue):
        connection.execute(f"SET client_connection_check_interval = {LOST_CLIENT_CHECK_MS}")


@contextmanager
def rebuild_locked(connection: Connection, name: str) -> Iterator[None]:
    """Keep other processes from rebuilding this projection. Raises `RebuildRefused`."""
    late = f"{name} is already being rebuilt."
    with locked(connection, REBUILD_LOCK, name, REBUILD_LOCK_WAIT_S, late):
        yield


@contextmanager
def locked(
    connection: Connection, lock: int, name: str, timeout_s: float, late: str
) -> Iterator[None]:
    """Hold one of the projection's locks. Raises `RebuildRefused` with the message `late`."""
    connection.execute(f"SET lock_timeout = {int(timeout_s * 1000)}")
    try:
        connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (lock, name))
    except psycopg.errors.LockNotAvailable:
        raise RebuildRefused(late) from None
    finally:
        connection.execute("SET lock_timeout = 0")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(UNLOCK, (lock, name))


def hold_shadow(connection: Connection, name: str) -> None:
    """Mark this session as one that fills the shadow tables of a projection."""
    connection.execute(HOLD_SHADOW, (SHADOW_LOCK, name))


def end_earlier_sessions(connection: Connection, name: str) -> None:
    """End the sessions that fill shadow tables of a projection. The caller holds `REBUILD_LOCK`.

    Raises `RebuildRefused` if they have not ended after `SESSION_END_WAIT_S`.
    """
    connection.execute(DISCONNECT_HOLDERS, (SHADOW_LOCK, name))
    late = f"an earlier rebuild of {name} has not ended; try again."
    with locked(connection, SHADOW_LOCK, name, SESSION_END_WAIT_S, late):
        pass
