"""The disk of the embedded server: free space, a reserve, and a server that refuses writes.

PostgreSQL ends if it cannot create a segment of its write-ahead log, and then needs room for the
recovery as well. The reserve is a file that a start deletes if the disk is full.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psycopg

from eventlog.retries import poll_until

RESERVE_FILE = "reserve"
RESERVE_BYTES = 128 * 1024**2
"""Eight segments of the write-ahead log; recovery and the start of the server need two."""
CHUNK_BYTES = 1024**2
CONNECT_TIMEOUT_S = 2
RELOAD_WAIT_MAX_S = 10.0
POLL_INTERVAL_S = 0.02
CANCEL_AFTER_S = 1.0
"""Seconds that a writing transaction may go on after the server began to refuse writes."""

# Without log_min_messages, every refused statement would be written to the server's log, on the
# disk that has no room. Messages of the level LOG, such as those of a recovery, still are.
REFUSE_WRITES = (
    "ALTER SYSTEM SET default_transaction_read_only = on",
    "ALTER SYSTEM SET log_min_messages = log",
    "SELECT pg_reload_conf()",
)
ACCEPT_WRITES = (
    "ALTER SYSTEM RESET default_transaction_read_only",
    "ALTER SYSTEM RESET log_min_messages",
    "SELECT pg_reload_conf()",
)
CANCEL_WRITERS = """
SELECT pg_cancel_backend(pid) FROM pg_stat_activity
 WHERE backend_xid IS NOT NULL AND backend_type = 'client backend' AND pid <> pg_backend_pid()
   AND xact_start < clock_timestamp() - make_interval(secs => %s)
"""

Measure = Callable[[Path], int]
"""Returns the free bytes on the disk of a folder. Raises `OSError`."""


def free_bytes(folder: Path) -> int:
    """Return the bytes that an ordinary user may still write to the disk of the folder.

    Raises `OSError`.
    """
    return shutil.disk_usage(folder).free


class DiskReserve:
    """A file of `RESERVE_BYTES` in the folder of the server."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESERVE_FILE
        self._unfinished = self._path.with_suffix(".new")

    def exists(self) -> bool:
        """Whether there is a reserve."""
        return self._path.exists()

    def release(self) -> None:
        """Delete the reserve, so that its bytes are free. Raises `OSError`."""
        self._path.unlink(missing_ok=True)
        self._unfinished.unlink(missing_ok=True)

    def fill(self) -> None:
        """Create the reserve, with blocks that are really allocated. Raises `OSError`."""
        try:
            with self._unfinished.open("wb") as file:
                _allocate(file.fileno(), RESERVE_BYTES)
            self._unfinished.replace(self._path)
        except OSError:
            with suppress(OSError):
                self._unfinished.unlink(missing_ok=True)
            raise


def refuse_writes(superuser_url: str) -> None:
    """Make new transactions of the server read-only. Raises `psycopg.Error`."""
    with _connected(superuser_url) as connection:
        for statement in REFUSE_WRITES:
            connection.execute(statement.encode())


def cancel_writers(superuser_url: str) -> None:
    """Cancel transactions that began to write earlier. Raises `psycopg.Error`."""
    with _connected(superuser_url) as connection:
        connection.execute(CANCEL_WRITERS, (CANCEL_AFTER_S,))


def accept_writes(superuser_url: str) -> None:
    """Take `refuse_writes` back, and return once new sessions may write.

    Raises `psycopg.Error`, and `TimeoutError` if the server does not follow.
    """
    if not refuses_writes(superuser_url):
        return
    with _connected(superuser_url) as connection:
        for statement in ACCEPT_WRITES:
            connection.execute(statement.encode())

    def accepts() -> bool:
        return not refuses_writes(superuser_url)

    if not poll_until(accepts, RELOAD_WAIT_MAX_S, POLL_INTERVAL_S):
        raise TimeoutError(f"PostgreSQL still refuses writes after {RELOAD_WAIT_MAX_S:.0f} s")


def refuses_writes(superuser_url: str) -> bool:
    """Whether new transactions of the server are read-only. Raises `psycopg.Error`."""
    with _connected(superuser_url) as connection:
        return connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


def _connected(superuser_url: str) -> psycopg.Connection:
    return psycopg.connect(superuser_url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)


def _allocate(descriptor: int, size_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size_bytes)
        return
    for _ in range(0, size_bytes, CHUNK_BYTES):
        os.write(descriptor, bytes(CHUNK_BYTES))
    os.fsync(descriptor)
