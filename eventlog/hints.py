"""Hints that there may be new events. They only make followers read sooner.

A NOTIFY inside the appending transaction would serialise commits. So it is sent on a separate
connection, once for all appends of some milliseconds.
"""

from __future__ import annotations

import contextlib
import logging
import threading

import psycopg

from eventlog.connections import CONNECT_TIMEOUT_S, AsyncConnection, Connection
from eventlog.retries import retry_until_stopped

log = logging.getLogger(__name__)

APPENDED = "annals_appended"
PROJECTED = "annals_projected"

HINT_PAUSE_S = 0.001
HINT_BUSY_PAUSE_S = 0.003
HINT_BUSY_APPENDS = 4
"""If at least this many appends are made in the first pause, the second one follows. The appends of
both share the next hint."""
HINT_RETRY_S = 1.0


class Hinter:
    """Sends a NOTIFY some milliseconds after `hint()`, from a thread."""

    def __init__(self, url: str, channel: str = APPENDED) -> None:
        self._url = url
        self._channel = channel
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._asked = 0
        self.sent = 0
        """Number of hints sent so far."""
        self._thread = threading.Thread(target=self._run, name="annals-hinter", daemon=True)
        self._thread.start()

    def hint(self) -> None:
        """Ask for a hint. Returns at once and never fails."""
        self._asked += 1  # may miss one of two concurrent calls: it is an estimate
        self._wanted.set()

    def close(self) -> None:
        """Stop. A hint that was not sent yet is dropped."""
        self._stopped.set()
        self._wanted.set()
        self._thread.join(timeout=CONNECT_TIMEOUT_S)

    def _run(self) -> None:
        retry_until_stopped(
            self._send,
            self._stopped,
            errors=(psycopg.Error,),
            delay_s=HINT_RETRY_S,
            on_error=self._report,
        )

    def _report(self, error: BaseException) -> None:
        log.warning("hints are not sent, followers poll: %s", error)
        self._wanted.set()  # the next connection sends the hint that was lost

    def _send(self) -> None:
        with psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="annals-hinter",
        ) as connection:
            while self._wanted.wait() and not self._stopped.is_set():
                self._wanted.clear()
                asked = self._asked
                connection.execute(f"NOTIFY {self._channel}")
                self.sent += 1
                self._stopped.wait(HINT_PAUSE_S)
                if self._asked - asked >= HINT_BUSY_APPENDS:
                    self._stopped.wait(HINT_BUSY_PAUSE_S)


async def listen(connection: AsyncConnection, channel: str) -> None:
    """Start to receive the hints of this channel on the connection."""
    await connection.execute(f"LISTEN {channel}".encode())


async def unlisten(connection: AsyncConnection) -> None:
    """Stop receiving hints on the connection."""
    await connection.execute("UNLISTEN *")


def wait_for_hint(connection: Connection, timeout_s: float) -> bool:
    """Wait on a connection that LISTENs; return whether a hint came in time."""
    with contextlib.closing(connection.notifies(timeout=timeout_s, stop_after=1)) as hints:
        return any(True for _ in hints)


async def wait_for_hint_async(connection: AsyncConnection, timeout_s: float) -> bool:
    """As `wait_for_hint`, in an event loop."""
    async with contextlib.aclosing(connection.notifies(timeout=timeout_s, stop_after=1)) as hints:
        async for _ in hints:
            return True
    return False
