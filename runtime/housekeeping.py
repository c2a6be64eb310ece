"""Periodic maintenance by a running API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg.rows import TupleRow

from commands.idempotency import MAINTAIN_PARTITIONS
from commands.importing.store import PURGE
from eventlog.connections import CONNECT_TIMEOUT_S, server_settings

log = logging.getLogger(__name__)

INTERVAL_S = 3_600.0
RETRY_S = 60.0
STATEMENT_TIMEOUT_MS = 10_000


@asynccontextmanager
async def housekeeping(
    app_url: str, idempotency_window_s: int, imports_kept_s: int
) -> AsyncIterator[None]:
    """Run the maintenance every INTERVAL_S for the duration of the block.

    It creates partitions for stored responses ahead of time, drops those older than the window, and
    deletes imports older than `imports_kept_s` seconds. If the database is unreachable, it tries
    again after RETRY_S. Several processes may run it at once. If all of them fail for two days, the
    next stored response creates its partition.
    """
    loop = _run_periodically(app_url, idempotency_window_s, imports_kept_s)
    task = asyncio.create_task(loop, name="housekeeping")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def maintain_idempotency_partitions(app_url: str, window_s: int) -> tuple[int, int]:
    """Return how many partitions were created and dropped. Raises `psycopg.Error`."""
    row = await _call(app_url, MAINTAIN_PARTITIONS, window_s)
    return int(row[0]), int(row[1])


async def drop_expired_imports(app_url: str, kept_s: int) -> int:
    """Return how many imports were dropped, with their files. Raises `psycopg.Error`."""
    row = await _call(app_url, PURGE, kept_s)
    return int(row[0])


async def _call(app_url: str, statement: str, seconds: int) -> TupleRow:
    async with await psycopg.AsyncConnection.connect(
        app_url,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name="annals-housekeeping",
        options=server_settings(TimeZone="UTC", statement_timeout=STATEMENT_TIMEOUT_MS),
    ) as connection:
        row = await (await connection.execute(statement, (seconds,))).fetchone()
    assert row is not None
    return row


async def _run_periodically(app_url: str, window_s: int, imports_kept_s: int) -> None:
    while True:
        try:
            await maintain_idempotency_partitions(app_url, window_s)
            await drop_expired_imports(app_url, imports_kept_s)
            pause_s = INTERVAL_S
        except (psycopg.Error, OSError) as error:
            log.warning("housekeeping failed and will be repeated: %s", error)
            pause_s = RETRY_S
        await asyncio.sleep(pause_s)
