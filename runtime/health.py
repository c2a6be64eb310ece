"""The health of a running Annals, measured in the database alone.

Processes are not checked, because one that exists may be stopped, wait for a lock or keep failing.
What counts is whether checkpoints advance while there are events to process
(docs/adr/0007-operations.md).
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import socket
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from commands.processes import PROCESSES
from eventlog.connections import raw_json, server_settings
from eventlog.migrations import SQL_FOLDER
from eventlog.protections import deviations, load_protections_async
from eventlog.reading.positions import (
    readable_position_async,
    withheld_s,
    writer_locks,
)
from projections.engine.install import SELECT_FUNCTIONS, changed_functions
from projections.engine.registry import PROJECTIONS
from readmodels import table_definitions
from readmodels.operation import health
from readmodels.operation.checkpoints import report
from readmodels.pool import AsyncConnection
from runtime.health_snapshot import (
    Disk,
    HealthSnapshot,
    HeldBack,
    JobsState,
    ProjectionState,
    StorageState,
)
from runtime.settings import Settings

SNAPSHOT_TTL_S = 0.5
"""Seconds for which a snapshot is reused, so that frequent requests do not load the database."""
QUERY_TIMEOUT_S = 2.0
"""Seconds after which the database counts as not responding."""
SERVER_MARGIN_S = 0.5
"""Additional seconds in which the server may report its own statement timeout."""
PROTECTIONS_INTERVAL_S = 60.0
"""Seconds between two comparisons of the database's protections with those of this version."""
UNKNOWN_TABLES = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InsufficientPrivilege,
)
"""Errors that mean that the database lacks tables of this version."""


class HealthMonitor:
    """Takes snapshots over a dedicated connection, because the pools may be exhausted."""

    def __init__(self, app_url: str, settings: Settings) -> None:
        self._url = app_url
        self._settings = settings
        self._lock = asyncio.Lock()
        self._connection: AsyncConnection | None = None
        self._last: HealthSnapshot | None = None
        self._readable = 0
        self._receded_at_s: float | None = None
        self._deviations: tuple[str, ...] = ()
        self._compared_at_s = -math.inf

    async def snapshot(self) -> HealthSnapshot:
        """Return a snapshot that is at most SNAPSHOT_TTL_S old. Never raises."""
        async with self._lock:
            last = self._last
            if last is None or time.monotonic() - last.taken_at_s > SNAPSHOT_TTL_S:
                last = self._last = await self._take_snapshot()
            return last

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _take_snapshot(self) -> HealthSnapshot:
        had_connection = self._connection is not None
        try:
            connection = await self._connected()
            try:
                return await _within_timeout(connection, self._query(connection))
            except psycopg.Error:
                # That a connection broke since the last snapshot says nothing about the database.
                if not (had_connection and connection.closed):
                    raise
                connection = await self._connected()
                return await _within_timeout(connection, self._query(connection))
        except UNKNOWN_TABLES:
            return HealthSnapshot(missing=("the tables of this version",))
        except TimeoutError:
            return HealthSnapshot(
                error=f"the database does not answer within {QUERY_TIMEOUT_S:.0f} s"
            )
        except (psycopg.Error, OSError) as error:
            return HealthSnapshot(error=f"the database cannot be asked: {type(error).__name__}")

    async def _connected(self) -> AsyncConnection:
        if self._connection is None or self._connection.closed:
            connection = await psycopg.AsyncConnection[TupleRow].connect(
                self._url,
                autocommit=True,
                connect_timeout=int(QUERY_TIMEOUT_S),
                application_name="annals-health",
                options=server_settings(
                    TimeZone="UTC", statement_timeout=int(QUERY_TIMEOUT_S * 1000)
                ),
            )
            raw_json(connection)
            self._connection = connection
        return self._connection

    async def _query(self, connection: AsyncConnection) -> HealthSnapshot:
        projections = await self._query_projections(connection)
        migrations = await health.load_migrations(connection)
        wanted = sorted(path.stem for path in SQL_FOLDER.glob("*.sql"))
        missing = [f"migration {name}" for name in wanted if name not in migrations]
        known = {each.name for each in projections}
        missing += [f"projection {name}" for name in PROJECTIONS if name not in known]
        position = await readable_position_async(connection)
        urgent = {each.name: each.urgent for each in PROCESSES.values()}
        processes = await health.load_processes(connection, urgent)
        return HealthSnapshot(
            missing=tuple(missing),
            position=position,
            held_back=await self._query_held_back(connection, position),
            deviations=await self._query_deviations(
                connection,
                is_own_version=migrations <= {*wanted},
                has_own_rows=all(
                    each.facts["version"] == each.facts["wantedVersion"] for each in projections
                ),
            ),
            projections=tuple(projections),
            rebuilds=tuple(await health.load_rebuilds(connection)),
            checks=tuple(await health.load_coverage_checks(connection)),
            batches=tuple(await health.load_projector_batches(connection)),
            processes=tuple(processes),
            process_alarms=tuple(_process_alarms(processes, self._settings.stall_after_s)),
            breakers=tuple(await health.load_breakers(connection)),
            jobs=JobsState(*await health.load_open_jobs(connection)),
            storage=await self._query_storage(connection),
        )

    async def _query_held_back(self, connection: AsyncConnection, position: int) -> HeldBack:
        """Measure by the log, and not by the lock: sessions may alternate.

        Withheld are events after the highest position that was ever readable. A readable position
        that is lower than that also counts, by the time since which it is: readers that start now
        wait for it.
        """
        now_s = time.monotonic()
        if position >= self._readable:
            self._readable, self._receded_at_s = position, None
        elif self._receded_at_s is None:
            self._receded_at_s = now_s
        age_s = now_s - self._receded_at_s if self._receded_at_s is not None else 0.0
        locks = await writer_locks(connection)
        if locks.announcement or locks.exclusive:
            age_s = max(age_s, await withheld_s(connection, self._readable))
        return HeldBack(age_s, locks)

    async def _query_deviations(
        self, connection: AsyncConnection, *, is_own_version: bool, has_own_rows: bool
    ) -> tuple[str, ...]:
        """Compare the protections, unless a later version has migrated the database.

        The functions of the read tables are compared unless other code made any of them.
        """
        now_s = time.monotonic()
        if now_s - self._compared_at_s >= PROTECTIONS_INTERVAL_S:
            found = deviations(await load_protections_async(connection)) if is_own_version else []
            if is_own_version and has_own_rows:
                cursor = await connection.execute(SELECT_FUNCTIONS.encode())
                found += changed_functions(await cursor.fetchall(), table_definitions().values())
            self._deviations = tuple(found)
            self._compared_at_s = now_s
        return self._deviations

    async def _query_storage(self, connection: AsyncConnection) -> StorageState:
        is_read_only, has_backup, backup_age_s = await health.load_storage(connection)
        return StorageState(
            is_read_only,
            has_backup,
            backup_age_s,
            disk_of(self._settings.disk_folder),
            self._settings.disk_free_warn_bytes,
            self._settings.backup_age_warn_s,
        )

    async def _query_projections(self, connection: AsyncConnection) -> list[ProjectionState]:
        facts = [each for each in await report(connection) if each["name"] in PROJECTIONS]
        holders: dict[str, list[int]] = {name: [] for name in PROJECTIONS}
        for name, pid in await health.load_projection_locks(connection):
            if name in holders:
                holders[name].append(pid)
        stalled = {each["name"] for each in facts if is_stalled(each, self._settings.stall_after_s)}
        stalled_pids = {pid for name in stalled for pid in holders[name]}
        blockers = await health.load_blockers(connection, stalled_pids)
        return [
            _assess(each, each["name"] in stalled, holders[each["name"]], blockers)
            for each in facts
        ]


def disk_of(folder: Path | None) -> Disk | None:
    """Return the disk of the folder; None without a folder, or if it cannot be measured."""
    if folder is None:
        return None
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return Disk(usage.total, usage.free)


def is_stalled(facts: dict[str, Any], after_s: float) -> bool:
    """Whether a projection had events to process for this time and processed none of them.

    One that is far behind but advances is not stalled, nor is one whose first event just arrived.
    """
    waited_s = min(facts["lagSeconds"], facts["idleSeconds"])
    return bool(facts["lagEvents"] > 0 and waited_s > after_s)


def _process_alarms(processes: list[tuple[Any, ...]], after_s: float) -> list[str]:
    """Return an alarm for each process manager that is stalled, by the rule of `is_stalled`."""
    return [
        f"{name}: has not reacted for {unread_s:.0f} s: no sender runs, or it is stuck at an event"
        for name, *_, unread_s, idle_s in processes
        if min(unread_s, idle_s) > after_s
    ]


async def _within_timeout(
    connection: AsyncConnection, query: Coroutine[Any, Any, HealthSnapshot]
) -> HealthSnapshot:
    """Return the result of the query. Raises `TimeoutError`."""
    task = asyncio.create_task(query)
    try:
        # Cancelling a statement would wait for an answer of the server, which may be frozen.
        done, _ = await asyncio.wait({task}, timeout=QUERY_TIMEOUT_S + SERVER_MARGIN_S)
        if not done:
            raise TimeoutError
    finally:
        if not task.done():
            _shut_down_socket(connection)
            await asyncio.wait({task})
            task.exception()  # retrieved so that asyncio does not log it
    return task.result()


def _shut_down_socket(connection: AsyncConnection) -> None:
    """Make the task that waits on the connection fail."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as own, suppress(OSError):
        own.shutdown(socket.SHUT_RDWR)


def _assess(
    facts: dict[str, Any], has_stalled: bool, pids: list[int], blockers: dict[int, list[int]]
) -> ProjectionState:
    alarms, remarks = [], []
    if has_stalled:
        waited_s = min(facts["lagSeconds"], facts["idleSeconds"])
        alarms.append(f"no progress for {waited_s:.0f} s: {_cause(facts, pids, blockers)}")
    elif not pids and facts["state"] == "live":
        remarks.append("no projector works on it")
    if facts["faults"]:
        alarms.append(f"its coverage differs from the log in {facts['faults']} ranges")
    if facts["parked"]:
        remarks.append(f"{facts['parked']} entities are parked")
    if facts["problem"]:
        alarms.append(f"its tables cannot be changed ({facts['problem']}): rebuild it by --replace")
    if facts["version"] != facts["wantedVersion"]:
        alarms.append(
            f"its rows were made by version {facts['version']} of its code, and the projector has"
            f" {facts['wantedVersion']}, which must not change them: rebuild it"
        )
    return ProjectionState(facts["name"], facts, bool(pids), has_stalled, alarms, remarks)


def _cause(facts: dict[str, Any], pids: list[int], blockers: dict[int, list[int]]) -> str:
    blocking_pids = sorted({other for pid in pids for other in blockers.get(pid, [])})
    if blocking_pids:
        named = ", ".join(map(str, blocking_pids))
        return f"its projector waits for a lock of server process {named}"
    if facts["state"] == "handover":
        return "a swap has not ended"
    if not pids:
        return "no projector works on it"
    return "its projector holds the lock but does nothing"
