"""How far the projections have read, and waiting until they have read far enough."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import orjson
import psycopg

from eventlog.connections import CONNECT_TIMEOUT_S, server_settings
from eventlog.hints import PROJECTED, hinted
from eventlog.reading.positions import READABLE_POSITION, lag
from readmodels.pool import AsyncConnection

log = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 0.1
"""How often checkpoints are looked at where no hint comes and somebody waits."""
IDLE_INTERVAL_S = 2.0
RECONNECT_DELAY_S = 0.5
LAG_EVENTS_MAX = 100_000
"""Lag is counted up to here."""

SELECT_POSITIONS = "SELECT name, position FROM projections"

REPORT = f"""
WITH head AS MATERIALIZED (
    SELECT {READABLE_POSITION} AS position
), behind AS MATERIALIZED (
    -- Projections mostly stand at one position, so this is looked up once for each position.
    SELECT standing.position, b.n, b.seconds
      FROM (SELECT DISTINCT position FROM projections WHERE name NOT LIKE '%:%') AS standing, head,
           {lag("standing.position", "head.position", LAG_EVENTS_MAX)} AS b
)
SELECT json_build_object(
           'name', p.name, 'version', p.version, 'wantedVersion', p.wanted_version,
           'state', p.state, 'position', p.position,
           'lagEvents', behind.n, 'lagSeconds', coalesce(behind.seconds, 0),
           'idleSeconds', extract(epoch FROM clock_timestamp() - p.updated_at)::float,
           'parked', parked_entities(p.name),
           'faults', (SELECT count(*) FROM projection_faults AS f WHERE f.projection = p.name),
           'holder', p.holder, 'updatedAt', p.updated_at)
  FROM projections AS p JOIN behind USING (position)
 WHERE p.name NOT LIKE '%:%'
 ORDER BY p.name
"""

PARKED = """
SELECT coalesce(json_agg(json_build_object(
           'entityId', entity_id, 'position', position, 'events', events, 'error', error,
           'parkedAt', parked_at) ORDER BY position), '[]')
  FROM (SELECT * FROM projection_parked
         WHERE projection = %s AND workspace_id = %s
         ORDER BY position LIMIT %s) AS parked
"""
PARKED_MAX = 500
"""Most parked entities that are shown at once."""


class Checkpoints:
    """Follows the projections' checkpoints, so that a read can wait for its own write."""

    def __init__(self, app_url: str) -> None:
        self._url = app_url
        self._positions: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._waiting = 0
        self._moved: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def position_of(self, name: str) -> int:
        """How far the projection was when looked at last; -1 where it is not known."""
        return self._positions.get(name, -1)

    def when_moved(self, call: Callable[[], None]) -> None:
        """Call this, in the event loop, whenever a checkpoint has moved."""
        self._moved.append(call)

    async def start(self) -> None:
        """Begin to follow, in a task of the running loop."""
        self._task = asyncio.create_task(self._run(), name="checkpoints")

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def position(self, name: str) -> int:
        """How far the projection had come when it was last looked at; -1 where nobody knows."""
        return self._positions.get(name, -1)

    async def wait_for(self, names: Iterable[str], position: int, timeout_s: float) -> bool:
        """Whether all of these projections reached the position within the time."""
        wanted = tuple(names)

        def reached() -> bool:
            return all(self._positions.get(name, -1) >= position for name in wanted)

        if reached():
            return True
        self._waiting += 1
        try:
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(reached), timeout_s)
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return True

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except (psycopg.Error, OSError) as error:
                log.warning("checkpoints are not followed for now: %s", error)
                await asyncio.sleep(RECONNECT_DELAY_S)

    async def _follow(self) -> None:
        async with await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="annals-checkpoints",
            options=server_settings(TimeZone="UTC"),
        ) as connection:
            await connection.execute(f"LISTEN {PROJECTED}")
            waited_s = IDLE_INTERVAL_S
            while True:
                heard = await hinted(connection, REFRESH_INTERVAL_S)
                waited_s += REFRESH_INTERVAL_S
                if heard or self._waiting or waited_s >= IDLE_INTERVAL_S:
                    await self._refresh(connection)
                    waited_s = 0.0

    async def _refresh(self, connection: AsyncConnection) -> None:
        cursor = await connection.execute(SELECT_POSITIONS)
        positions: dict[str, int] = dict(await cursor.fetchall())
        if positions != self._positions:
            async with self._changed:
                self._positions = positions
                self._changed.notify_all()
            for call in self._moved:
                call()


async def report(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Name, version, position, lag (events, seconds) and faults of each projection.

    `version` is that by which the rows were made, `wantedVersion` that of the code which runs.
    `faults` counts ranges whose coverage differs from the log, `idleSeconds` since it moved last.
    """
    cursor = await connection.execute(REPORT)
    return [orjson.loads(row[0]) for row in await cursor.fetchall()]


async def parked_of_workspace(
    connection: AsyncConnection, projection: str, workspace_id: UUID
) -> bytes:
    """The workspace's entities that wait for a fix, the first `PARKED_MAX`, as a JSON array."""
    cursor = await connection.execute(PARKED, (projection, workspace_id, PARKED_MAX))
    row = await cursor.fetchone()
    assert row is not None
    return bytes(row[0])
