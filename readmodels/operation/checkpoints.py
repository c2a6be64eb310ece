"""The checkpoints of the projections: reporting them, and waiting until they reach a position."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

import orjson
import psycopg

from eventlog.connections import CONNECT_TIMEOUT_S, Connection, server_settings
from eventlog.hints import PROJECTED, wait_for_hint_async
from eventlog.reading.positions import READABLE_POSITION, lag
from readmodels.pool import AsyncConnection

log = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 0.1
"""How often checkpoints are loaded while a reader waits and no hint arrives."""
IDLE_INTERVAL_S = 2.0
"""How often they are loaded otherwise."""
POLL_INTERVAL_S = 0.02
RECONNECT_DELAY_S = 0.5
LAG_EVENTS_MAX = 100_000
"""Lag is counted up to here."""

SELECT_POSITIONS = "SELECT name, position FROM projections"
# Names with a colon are those of shadow and previous tables, which no projector advances.
SELECT_LOWEST = """
SELECT coalesce(min(position), 0) FROM projections
 WHERE CASE WHEN %(names)s::text[] IS NULL THEN name NOT LIKE '%%:%%'
            ELSE name = ANY(%(names)s) END
"""

REPORT = f"""
WITH head AS MATERIALIZED (
    SELECT {READABLE_POSITION} AS position
), behind AS MATERIALIZED (
    -- Projections mostly stand at the same position, so the lag is computed once per position.
    SELECT checkpoint.position, b.n, b.seconds
      FROM (SELECT DISTINCT position FROM projections WHERE name NOT LIKE '%:%') AS checkpoint,
           head,
           {lag("checkpoint.position", "head.position", LAG_EVENTS_MAX)} AS b
)
SELECT json_build_object(
           'name', p.name, 'version', p.version, 'wantedVersion', p.wanted_version,
           'state', p.state, 'position', p.position,
           'lagEvents', behind.n, 'lagSeconds', coalesce(behind.seconds, 0),
           'idleSeconds', extract(epoch FROM clock_timestamp() - p.updated_at)::float,
           'parked', parked_entities(p.name),
           'faults', (SELECT count(*) FROM projection_faults AS f WHERE f.projection = p.name),
           'problem', nullif(p.problem, ''),
           'holder', p.holder, 'updatedAt', p.updated_at)
  FROM projections AS p JOIN behind USING (position)
 WHERE p.name NOT LIKE '%:%'
 ORDER BY p.name
"""

PARKED_COUNTS = """
SELECT projection, count(*) FROM projection_parked WHERE workspace_id = %s GROUP BY projection
"""
CURRENT_WITHIN_S = 5.0
"""A projection with less lag counts as current; a tenant sees no more of its lag."""

PARKED = """
SELECT coalesce(json_agg(json_build_object(
           'entityId', entity_id, 'position', position, 'events', events, 'error', error,
           'parkedAt', parked_at) ORDER BY position), '[]')
  FROM (SELECT * FROM projection_parked
         WHERE projection = %s AND workspace_id = %s
         ORDER BY position LIMIT %s) AS parked
"""
PARKED_MAX = 500
"""Maximum number of parked entities that are shown at once."""


class NotProjected(Exception):
    """The projections did not reach the position in time; the slowest stands at `reached`."""

    def __init__(self, position: int, reached: int) -> None:
        super().__init__(f"the projections stand at position {reached} and not at {position}")
        self.position = position
        self.reached = reached


def wait_until_projected(
    connect: Callable[[], AbstractContextManager[Connection]],
    position: int,
    timeout_s: float,
    *,
    names: Collection[str] | None = None,
    only_while_stalled: bool = False,
) -> None:
    """Wait until these projections, or by default all live ones, have reached the position.

    connect: opens the connection or transaction of each poll. With `only_while_stalled` the time
    counts from the last progress. Raises `NotProjected`, and what `connect` raises.
    """
    parameters = {"names": None if names is None else list(names)}
    highest, started = -1, time.monotonic()
    while True:
        with connect() as connection:
            row = connection.execute(SELECT_LOWEST, parameters).fetchone()
        assert row is not None
        reached = int(row[0])
        if reached >= position:
            return
        if only_while_stalled and reached > highest:
            highest, started = reached, time.monotonic()
        elif time.monotonic() - started > timeout_s:
            raise NotProjected(position, reached)
        time.sleep(POLL_INTERVAL_S)


class Checkpoints:
    """Follows the checkpoints, so that requests can wait for them without polling the database."""

    def __init__(self, app_url: str) -> None:
        self._url = app_url
        self._positions: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._waiting = 0
        self._listeners: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def position_of(self, name: str) -> int:
        """The projection's checkpoint when it was last loaded; -1 if it is unknown."""
        return self._positions.get(name, -1)

    def when_moved(self, listener: Callable[[], None]) -> None:
        """Call the listener, in the event loop, whenever a checkpoint has moved."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Start to follow, in a task of the running loop."""
        self._task = asyncio.create_task(self._run(), name="checkpoints")

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def wait_until_projected(
        self, names: Iterable[str], position: int, timeout_s: float
    ) -> bool:
        """Wait until these projections have reached the position. False if the time runs out."""
        projections = tuple(names)

        def have_reached() -> bool:
            return all(self.position_of(name) >= position for name in projections)

        if have_reached():
            return True
        self._waiting += 1
        try:
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(have_reached), timeout_s)
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
                is_hinted = await wait_for_hint_async(connection, REFRESH_INTERVAL_S)
                waited_s += REFRESH_INTERVAL_S
                if is_hinted or self._waiting or waited_s >= IDLE_INTERVAL_S:
                    await self._refresh(connection)
                    waited_s = 0.0

    async def _refresh(self, connection: AsyncConnection) -> None:
        cursor = await connection.execute(SELECT_POSITIONS)
        positions: dict[str, int] = dict(await cursor.fetchall())
        if positions != self._positions:
            async with self._changed:
                self._positions = positions
                self._changed.notify_all()
            for listener in self._listeners:
                listener()


async def report(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Report name, version, position, lag (events, seconds) and faults of each live projection.

    `version` is that of the code that made the rows, `wantedVersion` that of the running code.
    `faults` counts ranges whose coverage differs from the log; `idleSeconds` is the time since the
    checkpoint moved.
    """
    cursor = await connection.execute(REPORT)
    return [orjson.loads(row[0]) for row in await cursor.fetchall()]


async def parked_counts(connection: AsyncConnection, workspace_id: UUID) -> dict[str, int]:
    """The number of the workspace's parked entities, by projection that has any."""
    cursor = await connection.execute(PARKED_COUNTS, (workspace_id,))
    return dict(await cursor.fetchall())


async def parked_of_workspace(
    connection: AsyncConnection, projection: str, workspace_id: UUID
) -> bytes:
    """The workspace's parked entities, at most `PARKED_MAX`, as a JSON array."""
    cursor = await connection.execute(PARKED, (projection, workspace_id, PARKED_MAX))
    row = await cursor.fetchone()
    assert row is not None
    return bytes(row[0])
