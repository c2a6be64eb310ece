"""Hints that there may be new events. They only make followers read sooner.

A NOTIFY inside the appending transaction would serialise commits. So it is sent on a separate
connection, once for all appends of some milliseconds. The first append sends it in its own thread,
which saves the switch to another one; the thread of the hinter waits for the answer, and sends the
next one for the appends that follow.
"""

from __future__ import annotations

import contextlib
import logging
import threading

import psycopg
from psycopg import generators
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

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
    """Sends a NOTIFY after `hint()`: at once, or some milliseconds after the last one."""

    def __init__(self, url: str, channel: str = APPENDED) -> None:
        self._url = url
        self._notify = f"NOTIFY {channel}".encode()
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        """Held for some microseconds. It guards the following."""
        self._idle: PGconn | None = None
        """The connection while the thread waits: `hint()` sends on it."""
        self._asked = self._covered = 0
        """How many hints were asked for, and how many of them the last NOTIFY stands for."""
        self.sent = 0
        """Number of hints sent so far."""
        self._thread = threading.Thread(target=self._run, name="annals-hinter", daemon=True)
        self._thread.start()

    def hint(self) -> None:
        """Ask for a hint. Returns at once and never fails."""
        with self._lock:
            self._asked += 1
            if self._idle is not None:
                self._begin(self._idle)
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
        with self._lock:
            self._covered = -1  # the next connection sends the hint that was lost

    def _send(self) -> None:
        with psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="annals-hinter",
        ) as connection:
            while self._send_next(connection):
                covered = self._covered
                self._stopped.wait(HINT_PAUSE_S)
                if self._asked - covered >= HINT_BUSY_APPENDS:
                    self._stopped.wait(HINT_BUSY_PAUSE_S)

    def _send_next(self, connection: Connection) -> bool:
        """Send the next hint once it is asked for; return whether the hinter goes on."""
        with self._lock:
            self._wanted.clear()
            if self._stopped.is_set():
                return False
            is_asked_for = self._asked != self._covered
            if is_asked_for:
                self._begin(connection.pgconn)
            else:
                self._idle = connection.pgconn
        if not is_asked_for:
            self._wanted.wait()
            with self._lock:
                is_closed, self._idle = self._idle is not None, None
            if is_closed:
                return False
        results = connection.wait(generators.execute(connection.pgconn))
        if not results:
            raise psycopg.OperationalError(connection.pgconn.get_error_message())
        if results[0].status != ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(results[0])
        self.sent += 1
        return True

    def _begin(self, pgconn: PGconn) -> None:
        """Send a NOTIFY for all hints asked for. Its answer, or the error, comes to the thread."""
        self._idle = None
        self._covered = self._asked
        with contextlib.suppress(psycopg.Error):
            pgconn.send_query(self._notify)


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
