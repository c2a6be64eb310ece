"""Hints that there is something new. Nothing depends on them but how soon a follower looks.

A NOTIFY inside the appending transaction would serialise commits, so it is sent from outside: one
for all the appends of some milliseconds, on a connection of its own.
"""

from __future__ import annotations

import contextlib
import logging
import threading

import psycopg
from psycopg.rows import TupleRow

from eventlog.connections import CONNECT_TIMEOUT_S, Connection

log = logging.getLogger(__name__)

APPENDED = "annals_appended"
PROJECTED = "annals_projected"

HINT_PAUSE_S = 0.001
HINT_BUSY_PAUSE_S = 0.003
HINT_BUSY_APPENDS = 4
"""Appends that come within the first time share one hint; where they were so many, whatever comes
within the second shares it, too."""
HINT_RETRY_S = 1.0


class Hinter:
    """Sends a NOTIFY some milliseconds after `hint()`, from a thread of its own."""

    def __init__(self, url: str, channel: str = APPENDED) -> None:
        self._url = url
        self._channel = channel
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._asked = 0
        self.sent = 0
        """How many hints were sent so far."""
        self._thread = threading.Thread(target=self._run, name="annals-hinter", daemon=True)
        self._thread.start()

    def hint(self) -> None:
        """Somebody appended. Returns at once and never fails."""
        self._asked += 1  # may miss one of two at once: it is a measure, not a count
        self._wanted.set()

    def close(self) -> None:
        """Stop; a hint not yet sent is dropped."""
        self._stopped.set()
        self._wanted.set()
        self._thread.join(timeout=CONNECT_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with psycopg.connect(
                    self._url,
                    autocommit=True,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    application_name="annals-hinter",
                ) as connection:
                    self._send(connection)
            except psycopg.Error as error:
                log.warning("hints are not sent, followers poll: %s", error)
                self._wanted.set()  # whatever was to be told, is told on the next connection
                self._stopped.wait(HINT_RETRY_S)

    def _send(self, connection: Connection) -> None:
        while self._wanted.wait() and not self._stopped.is_set():
            self._wanted.clear()
            asked = self._asked
            connection.execute(f"NOTIFY {self._channel}")
            self.sent += 1
            self._stopped.wait(HINT_PAUSE_S)
            if self._asked - asked >= HINT_BUSY_APPENDS:
                self._stopped.wait(HINT_BUSY_PAUSE_S)


async def listen(connection: psycopg.AsyncConnection[TupleRow], channel: str) -> None:
    """Receive the hints of this channel on the connection."""
    await connection.execute(f"LISTEN {channel}".encode())


async def unlisten(connection: psycopg.AsyncConnection[TupleRow]) -> None:
    """Receive no more hints on the connection."""
    await connection.execute("UNLISTEN *")


def wait_for_hint(connection: Connection, timeout_s: float) -> bool:
    """Wait on a connection that LISTENs; True where a hint came, False where time ran out."""
    with contextlib.closing(connection.notifies(timeout=timeout_s, stop_after=1)) as hints:
        return any(True for _ in hints)


async def hinted(connection: psycopg.AsyncConnection[TupleRow], timeout_s: float) -> bool:
    """As `wait_for_hint`, in an event loop."""
    async with contextlib.aclosing(connection.notifies(timeout=timeout_s, stop_after=1)) as hints:
        async for _ in hints:
            return True
    return False
