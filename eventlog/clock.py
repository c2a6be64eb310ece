"""The clock of the database server, so that a machine with a wrong clock records right times."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from eventlog.connections import Connection
from eventlog.retries import retry_until_stopped

log = logging.getLogger(__name__)

MEASURE_INTERVAL_S = 30.0
MEASURE_RETRY_S = 1.0
MEASURE_WAIT_MAX_S = 2.0
"""Seconds to wait for a free connection."""
CLOSE_WAIT_MAX_S = 2.0
"""Seconds to wait for the end of a measurement, whose database may not answer."""
FIRST_WAIT_MAX_S = 1.0
"""Seconds to wait for the first measurement."""
DIFFERENCE_MAX_S = 1.0
"""A change of the difference by more is logged, and a clock that was set is measured at once."""


def local_time() -> datetime:
    """Return the time of this machine's clock, in UTC."""
    return datetime.now(UTC)


class DatabaseClock:
    """The time of the database server, from this machine's clock and the measured difference.

    A new clock waits FIRST_WAIT_MAX_S for the first measurement; without one, the difference is
    taken to be none. A measurement takes the answer for one that was given at its arrival, so the
    time is never ahead of the server's. If this machine's clock was set or the machine slept, the
    difference is measured again at once.
    """

    def __init__(
        self, pool: ConnectionPool[Connection], local: Callable[[], datetime] = local_time
    ) -> None:
        self._pool = pool
        self._local = local
        self._ahead = timedelta()
        self._seen = (local(), time.monotonic())
        self._wanted = threading.Event()
        self._measured = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="annals-clock", daemon=True)
        self._thread.start()
        self._measured.wait(FIRST_WAIT_MAX_S)

    def now(self) -> datetime:
        """Return the current time in UTC."""
        local = self._local()
        before, monotonic_s = self._seen
        passed_s = time.monotonic() - monotonic_s
        if abs((local - before).total_seconds() - passed_s) > DIFFERENCE_MAX_S:
            self._wanted.set()
        return local - self._ahead

    def measure(self) -> None:
        """Measure the difference. Raises `psycopg.Error` and the errors of the pool."""
        with self._pool.connection(timeout=MEASURE_WAIT_MAX_S) as connection:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
            assert row is not None
            local = self._local()
            ahead: timedelta = local - row[0]
        if abs(ahead - self._ahead).total_seconds() > DIFFERENCE_MAX_S:
            log.warning(
                "the clock of this machine is %.1f s ahead of the database's, which is used",
                ahead.total_seconds(),
            )
        self._ahead, self._seen = ahead, (local, time.monotonic())
        self._measured.set()

    def close(self) -> None:
        """End the measurements."""
        self._stopped.set()
        self._wanted.set()
        self._thread.join(timeout=CLOSE_WAIT_MAX_S)

    def _run(self) -> None:
        retry_until_stopped(
            self._measure_repeatedly,
            self._stopped,
            errors=(psycopg.Error, PoolTimeout, TooManyRequests),
            delay_s=MEASURE_RETRY_S,
            on_error=lambda error: log.debug("the database's clock was not read: %s", error),
        )

    def _measure_repeatedly(self) -> None:
        while not self._stopped.is_set():
            self._wanted.clear()
            self.measure()
            self._wanted.wait(MEASURE_INTERVAL_S)
