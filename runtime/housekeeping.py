"""What a running API does beside its requests, now and then."""

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
async def housekeeping(app_url: str, window_s: int, imports_kept_s: int) -> AsyncIterator[None]:
    """While the block lasts: partitions for remembered answers are made ahead, old ones dropped.
    Imports that were kept long enough are dropped as well.

    Every hour, and again after a minute where the database could not be reached. Several processes
    may do so at once. Should all of them fail for two days, the next answer makes its partition.
    """
    task = asyncio.create_task(_keep(app_url, window_s, imports_kept_s), name="remembered-answers")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def maintain_idempotency_partitions(app_url: str, window_s: int) -> tuple[int, int]:
    """Once; returns how many partitions were made and dropped. Raises `psycopg.Error`."""
    row = await _call(app_url, MAINTAIN_PARTITIONS, window_s)
    return int(row[0]), int(row[1])


async def drop_expired_imports(app_url: str, kept_s: int) -> int:
    """Once; returns how many imports were dropped, with their files. Raises `psycopg.Error`."""
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


async def _keep(app_url: str, window_s: int, imports_kept_s: int) -> None:
    while True:
        try:
            await maintain_idempotency_partitions(app_url, window_s)
            await drop_expired_imports(app_url, imports_kept_s)
            pause_s = INTERVAL_S
        except (psycopg.Error, OSError) as error:
            log.warning("remembered answers and old imports are not seen to for now: %s", error)
            pause_s = RETRY_S
        await asyncio.sleep(pause_s)
