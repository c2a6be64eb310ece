"""What can be known of a running Annals, asked of the database alone, and what it comes to.

Whether a projector process lives is not asked: one that is stopped, waits for a lock or fails in a
circle lives and does nothing. What counts is whether checkpoints move while there is something to
do (docs/adr/0007-operations.md).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import psycopg
from psycopg.rows import TupleRow

from commands.processes import PROCESSES
from eventlog.connections import raw_json, server_settings
from eventlog.locks import LEASE_LOCK
from eventlog.migrations import SQL_FOLDER
from eventlog.reading.positions import READABLE_POSITION, lag, readable_position_async
from projections.engine.registry import PROJECTIONS
from readmodels.checkpoints import report
from readmodels.pool import AsyncConnection

FRESH_S = 0.5
"""Who asks again within this time gets the same answer: nobody loads the database by asking."""
LOOK_TIMEOUT_S = 2.0
"""A database that does not answer within this time does not answer."""
ANSWER_MARGIN_S = 0.5
"""So much longer is waited for the server to say itself that it took too long."""
JOBS_IDLE_MAX_S = 30.0
"""A worker takes up a job, and again after each turn; after this time none seems to be there."""
UNKNOWN_TABLES = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InsufficientPrivilege,
)

SELECT_LEASES = f"""
SELECT p.name, l.pid
  FROM pg_locks AS l JOIN projections AS p
    ON l.objid::bigint = hashtext(p.name)::bigint & 4294967295
 WHERE l.locktype = 'advisory' AND l.classid = {LEASE_LOCK} AND l.objsubid = 2 AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
SELECT_BLOCKERS = "SELECT pid, pg_blocking_pids(pid) FROM unnest(%s::integer[]) AS pid"
SELECT_REBUILDS = """
SELECT projection, state, processed, total FROM projection_rebuilds
 WHERE ended_at IS NULL AND kind = 'rebuild' ORDER BY id
"""
SELECT_CHECKS = "SELECT projection, newest, swept_at FROM projection_checks"
SELECT_WORK = """
SELECT source, events, seconds, batches_by_events, batches_by_seconds FROM projector_work
"""
SELECT_PROCESSES = f"""
SELECT i.process, i.position, b.n, coalesce(b.seconds, 0), w.n, w.oldest_s,
       unread_by_process(i.process, known.topics),
       extract(epoch FROM clock_timestamp() - i.updated_at)::float
  FROM process_inboxes AS i
  JOIN waiting_commands() AS w USING (process)
  JOIN json_to_recordset(%s) AS known (process text, topics text[]) USING (process)
 CROSS JOIN {lag("i.position", READABLE_POSITION, 100_000)} AS b
 ORDER BY i.process
"""
SELECT_BREAKERS = """
SELECT name, state, cardinality(failures),
       greatest(0, coalesce(extract(epoch FROM until - clock_timestamp()), 0))::float
  FROM circuit_breakers ORDER BY name
"""
SELECT_JOBS = "SELECT n, oldest_s, idle_s FROM jobs_open()"
SELECT_MIGRATIONS = "SELECT migration_id FROM _yoyo_migration"

URGENT = orjson.dumps(
    [{"process": each.name, "topics": sorted(each.urgent)} for each in PROCESSES.values()]
).decode()

HealthStatus = Literal["ok", "degraded", "red"]


@dataclass(frozen=True)
class ProjectionState:
    """One projection, and what there is to be said of it."""

    name: str
    facts: dict[str, Any]
    """As `readmodels.checkpoints.report` has them."""
    is_held: bool
    """Whether a projector works on it."""
    is_stalled: bool
    alarms: list[str]
    """Why it is red."""
    remarks: list[str]
    """What somebody should see to, though it does its work."""

    @property
    def status(self) -> HealthStatus:
        """In one word."""
        return "red" if self.alarms else "degraded" if self.remarks else "ok"

    def told(self) -> dict[str, Any]:
        """For everybody: without the names of machines."""
        shown = ("position", "lagEvents", "lagSeconds", "idleSeconds", "parked", "faults")
        return {
            "name": self.name,
            "status": self.status,
            "reasons": self.alarms + self.remarks,
            **{name: self.facts[name] for name in shown},
        }


@dataclass(frozen=True)
class JobsState:
    """The jobs that have not ended, those of all workspaces."""

    open: int = 0
    oldest_s: float = 0.0
    """Since when the oldest of them is there."""
    idle_s: float = 0.0
    """Since when no worker took one up."""

    @property
    def remarks(self) -> list[str]:
        """What somebody should see to."""
        if self.open and self.idle_s > JOBS_IDLE_MAX_S:
            return [f"{self.open} jobs are open, and no worker took one up for {self.idle_s:.0f} s"]
        return []

    def told(self) -> dict[str, Any]:
        """For everybody."""
        return {
            "open": self.open,
            "oldestSeconds": self.oldest_s,
            "idleSeconds": self.idle_s,
            "reasons": self.remarks,
        }


@dataclass(frozen=True)
class HealthSnapshot:
    """One look at the database."""

    error: str = ""
    """Why nothing can be said; empty where the database answered."""
    missing: tuple[str, ...] = ()
    """Migrations and projections of this version that the database does not have."""
    position: int = 0
    """Up to which the log can be read."""
    projections: tuple[ProjectionState, ...] = ()
    rebuilds: tuple[tuple[Any, ...], ...] = ()
    checks: tuple[tuple[Any, ...], ...] = ()
    work: tuple[tuple[Any, ...], ...] = ()
    processes: tuple[tuple[Any, ...], ...] = ()
    process_alarms: tuple[str, ...] = ()
    """Of those that do not react, though there is something to react to."""
    breakers: tuple[tuple[Any, ...], ...] = ()
    jobs: JobsState = JobsState()
    looked_at_s: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> HealthStatus:
        """The worst of all."""
        if self.error or self.missing or self.process_alarms:
            return "red"
        found = {each.status for each in self.projections}
        if self.jobs.remarks:
            found.add("degraded")
        return "red" if "red" in found else "degraded" if "degraded" in found else "ok"

    def told(self) -> list[dict[str, Any]]:
        """Each projection, for everybody."""
        return [each.told() for each in self.projections]


class HealthMonitor:
    """Looks at the database, by a connection of its own: the pools may be what is stuck."""

    def __init__(self, app_url: str, *, stall_after_s: float) -> None:
        self._url = app_url
        self._stall_after_s = stall_after_s
        self._lock = asyncio.Lock()
        self._connection: AsyncConnection | None = None
        self._view: HealthSnapshot | None = None

    async def look(self) -> HealthSnapshot:
        """The state of things, FRESH_S seconds old at the most. Never raises."""
        async with self._lock:
            view = self._view
            if view is None or time.monotonic() - view.looked_at_s > FRESH_S:
                view = self._view = await self._look_anew()
            return view

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _look_anew(self) -> HealthSnapshot:
        had_connection = self._connection is not None
        try:
            connection = await self._connected()
            try:
                return await _bounded(connection, self._ask(connection))
            except psycopg.Error:
                # A connection that broke since the last look says nothing of the database.
                if not (had_connection and connection.closed):
                    raise
                connection = await self._connected()
                return await _bounded(connection, self._ask(connection))
        except UNKNOWN_TABLES:
            return HealthSnapshot(missing=("the tables of this version",))
        except TimeoutError:
            return HealthSnapshot(
                error=f"the database does not answer within {LOOK_TIMEOUT_S:.0f} s"
            )
        except (psycopg.Error, OSError) as error:
            return HealthSnapshot(error=f"the database cannot be asked: {type(error).__name__}")

    async def _connected(self) -> AsyncConnection:
        if self._connection is None or self._connection.closed:
            connection = await psycopg.AsyncConnection[TupleRow].connect(
                self._url,
                autocommit=True,
                connect_timeout=int(LOOK_TIMEOUT_S),
                application_name="annals-lookout",
                options=server_settings(
                    TimeZone="UTC", statement_timeout=int(LOOK_TIMEOUT_S * 1000)
                ),
            )
            raw_json(connection)
            self._connection = connection
        return self._connection

    async def _ask(self, connection: AsyncConnection) -> HealthSnapshot:
        facts = [each for each in await report(connection) if each["name"] in PROJECTIONS]
        holders = await _holders(connection)
        stalled = {each["name"] for each in facts if is_stalled(each, self._stall_after_s)}
        blocked = await _blocked(connection, {pid for name in stalled for pid in holders[name]})
        states = [
            _judged(each, each["name"] in stalled, holders[each["name"]], blocked) for each in facts
        ]
        migrations = {row[0] for row in await _rows(connection, SELECT_MIGRATIONS)}
        wanted = sorted(path.stem for path in SQL_FOLDER.glob("*.sql"))
        missing = [f"migration {name}" for name in wanted if name not in migrations]
        cursor = await connection.execute(SELECT_PROCESSES, (URGENT,))
        processes = await cursor.fetchall()
        known = {each.name for each in states}
        missing += [f"projection {name}" for name in PROJECTIONS if name not in known]
        return HealthSnapshot(
            missing=tuple(missing),
            position=await readable_position_async(connection),
            projections=tuple(states),
            rebuilds=tuple(await _rows(connection, SELECT_REBUILDS)),
            checks=tuple(await _rows(connection, SELECT_CHECKS)),
            work=tuple(await _rows(connection, SELECT_WORK)),
            processes=tuple(processes),
            process_alarms=tuple(_process_alarms(processes, self._stall_after_s)),
            breakers=tuple(await _rows(connection, SELECT_BREAKERS)),
            jobs=JobsState(*(await _rows(connection, SELECT_JOBS))[0]),
        )


def is_stalled(facts: dict[str, Any], after_s: float) -> bool:
    """Whether there was something to do for so many seconds, and nothing was done.

    One that is far behind and moves is not stalled, nor is one that has just got something to do.
    """
    waited_s = min(facts["lagSeconds"], facts["idleSeconds"])
    return bool(facts["lagEvents"] > 0 and waited_s > after_s)


def _process_alarms(processes: list[tuple[Any, ...]], after_s: float) -> list[str]:
    """As with projections: something is there for a while, and for a while nothing has moved."""
    return [
        f"{name}: has not reacted for {unread_s:.0f} s: no sender runs, or it is stuck at an event"
        for name, *_, unread_s, idle_s in processes
        if min(unread_s, idle_s) > after_s
    ]


async def _bounded(
    connection: AsyncConnection, asking: Coroutine[Any, Any, HealthSnapshot]
) -> HealthSnapshot:
    """Wait for the answer, and no longer. Raises `TimeoutError`."""
    task = asyncio.create_task(asking)
    try:
        # Whoever cancels a statement waits for the server to agree, and this one may be frozen.
        done, _ = await asyncio.wait({task}, timeout=LOOK_TIMEOUT_S + ANSWER_MARGIN_S)
        if not done:
            raise TimeoutError
    finally:
        if not task.done():
            _cut(connection)
            await asyncio.wait({task})
            task.exception()  # it is known, and need not be told
    return task.result()


def _cut(connection: AsyncConnection) -> None:
    """Have whoever waits on the connection find it closed."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as own, suppress(OSError):
        own.shutdown(socket.SHUT_RDWR)


async def _rows(connection: AsyncConnection, statement: str) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement.encode())
    return await cursor.fetchall()


async def _holders(connection: AsyncConnection) -> dict[str, list[int]]:
    """By projection, the server processes of those who work on it."""
    holders: dict[str, list[int]] = {name: [] for name in PROJECTIONS}
    for name, pid in await _rows(connection, SELECT_LEASES):
        if name in holders:
            holders[name].append(pid)
    return holders


async def _blocked(connection: AsyncConnection, pids: set[int]) -> dict[int, list[int]]:
    """Which of these server processes wait for a lock, and for whose."""
    if not pids:
        return {}
    cursor = await connection.execute(SELECT_BLOCKERS, (list(pids),))
    return {row[0]: row[1] for row in await cursor.fetchall() if row[1]}


def _judged(
    facts: dict[str, Any], is_stalled: bool, pids: list[int], blocked: dict[int, list[int]]
) -> ProjectionState:
    alarms, remarks = [], []
    if is_stalled:
        waited_s = min(facts["lagSeconds"], facts["idleSeconds"])
        alarms.append(f"no progress for {waited_s:.0f} s: {_cause(facts, pids, blocked)}")
    elif not pids and facts["state"] == "live":
        remarks.append("no projector works on it")
    if facts["faults"]:
        alarms.append(f"its coverage differs from the log in {facts['faults']} ranges")
    if facts["parked"]:
        remarks.append(f"{facts['parked']} entities are parked")
    if facts["version"] != facts["wantedVersion"]:
        remarks.append("its code changed since its rows were made: rebuild it")
    return ProjectionState(facts["name"], facts, bool(pids), is_stalled, alarms, remarks)


def _cause(facts: dict[str, Any], pids: list[int], blocked: dict[int, list[int]]) -> str:
    blockers = sorted({other for pid in pids for other in blocked.get(pid, [])})
    if blockers:
        named = ", ".join(str(each) for each in blockers)
        return f"its projector waits for a lock of server process {named}"
    if facts["state"] == "handover":
        return "a swap has not ended"
    if not pids:
        return "no projector works on it"
    return "its projector holds it and does nothing"
