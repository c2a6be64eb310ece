"""The guard of the embedded server's disk: no writes before the disk is full, reads always.

A full disk ends PostgreSQL, and reads with it. So the guard makes transactions read-only while
there is less room than a minimum. Transactions that write at that moment are cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from runtime.health_snapshot import mebibytes
from server.disk import (
    RESERVE_BYTES,
    DiskReserve,
    Measure,
    accept_writes,
    cancel_writers,
    free_bytes,
    refuse_writes,
    refuses_writes,
)
from server.postgres.embedded import Cluster

CHECK_INTERVAL_S = 0.5
RESUME_FACTOR = 1.25
"""Writes are accepted again with this multiple of the minimum, so that the state does not
alternate."""


class DiskGuard:
    """Lets a server refuse writes while its disk has fewer free bytes than `free_min_bytes`."""

    def __init__(
        self,
        print_line: Callable[[str], None],
        free_min_bytes: int,
        measure: Measure = free_bytes,
    ) -> None:
        self._print_line = print_line
        self._free_min_bytes = free_min_bytes
        self._resume_bytes = int(free_min_bytes * RESUME_FACTOR)
        self._measure = measure
        self._known: tuple[Cluster, bool] | None = None
        """The guarded server, and whether it refuses writes; None if the server has to be asked."""
        self._failure = ""
        self._check_at_s = 0.0

    def check(self, cluster: Cluster) -> None:
        """Measure the free space, not more often than each CHECK_INTERVAL_S. Never raises.

        A failure is printed once, until a check succeeds or fails otherwise.
        """
        now_s = time.monotonic()
        if now_s < self._check_at_s:
            return
        self._check_at_s = now_s + CHECK_INTERVAL_S
        folder, failure = cluster.data.parent, ""
        try:
            self._act(cluster, DiskReserve(folder), self._measure(folder))
        except (psycopg.Error, OSError) as error:
            self._known = None
            failure = f"The free space of {folder} could not be guarded: {error}"
        if failure and failure != self._failure:
            self._print_line(failure)
        self._failure = failure

    def _act(self, cluster: Cluster, reserve: DiskReserve, free: int) -> None:
        if self._known is None or self._known[0] != cluster:
            self._known = (cluster, refuses_writes(cluster.superuser_url))
        is_refusing = self._known[1]
        if is_refusing and free < self._resume_bytes:
            cancel_writers(cluster.superuser_url)
        elif is_refusing:
            accept_writes(cluster.superuser_url)
            self._known = (cluster, False)
            self._print_line(f"{mebibytes(free)} of disk are free again: writes are accepted.")
        elif free < self._free_min_bytes:
            self._refuse(cluster, reserve)
            self._known = (cluster, True)
            self._print_line(
                f"Only {mebibytes(free)} of disk are free at {cluster.data.parent}: writes are"
                f" refused until there are {mebibytes(self._resume_bytes)}. Reads go on."
            )
        elif not reserve.exists() and free >= self._resume_bytes + RESERVE_BYTES:
            reserve.fill()

    def _refuse(self, cluster: Cluster, reserve: DiskReserve) -> None:
        try:
            refuse_writes(cluster.superuser_url)
        except psycopg.errors.DiskFull:  # the server writes the setting to a file
            reserve.release()
            refuse_writes(cluster.superuser_url)
