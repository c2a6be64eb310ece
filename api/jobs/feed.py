"""Streams of job progress: one query of the read table serves all followers of this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout, TooManyRequests

from api.http.sse import HEARTBEAT_INTERVAL_S, frame, heartbeat, opening
from readmodels.jobs import JobState, job_states
from readmodels.operation.checkpoints import Checkpoints
from readmodels.pool import ReadPool
from runtime import codes
from runtime.errors import ApiError
from runtime.settings import Settings

log = logging.getLogger(__name__)

QUERY_INTERVAL_S = 0.1
"""Minimum seconds between queries while the projection advances."""
IDLE_INTERVAL_S = 0.5
"""Maximum seconds between queries while the projection is idle, for new followers."""
PROJECTION = "jobs"
PROGRESS = "progress"
"""Name of all events but the last."""
END = "end"
"""Name of the last event."""

Followed = tuple[UUID, UUID]
"""Workspace and job."""


class JobFeed:
    """Reads the followed jobs whenever their projection has advanced.

    Used in the event loop only. It runs no queries while there are no followers.
    """

    def __init__(self, reads: ReadPool, checkpoints: Checkpoints, settings: Settings) -> None:
        self._reads = reads
        self._checkpoints = checkpoints
        self._max = settings.job_followers_max
        self._per_workspace_max = settings.job_followers_per_workspace_max
        self._followers: Counter[Followed] = Counter()
        self._states: dict[Followed, JobState] = {}
        self._updated = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._is_stopping = False
        self._waking: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """End all streams because the server stops; clients reconnect. Thread-safe."""
        self._is_stopping = True
        self._loop.call_soon_threadsafe(self._start_waking)

    def _start_waking(self) -> None:
        self._waking = self._loop.create_task(self._wake_followers(), name="job-feed-stop")

    async def _wake_followers(self) -> None:
        async with self._updated:
            self._updated.notify_all()

    async def follow(
        self, workspace_id: UUID, job_id: UUID, state: JobState, after_version: int
    ) -> AsyncIterator[bytes]:
        """Stream frames of an admitted job at versions after `after_version`, until it ends.

        `state` is its current state. The last frame is sent even if its version is not newer.
        """
        version = after_version
        yield opening()
        found: JobState | None = state
        while True:
            if found is None:
                yield heartbeat()
            elif found.version > version or found.has_ended:
                version = found.version
                yield frame(_event_name(found), found.content, version)
                if found.has_ended:
                    return
            found = await self._next_state((workspace_id, job_id), version)
            if self._is_stopping:
                return

    async def close(self) -> None:
        """Stop the background tasks."""
        for task in (self._task, self._waking):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    @contextmanager
    def admitted(self, workspace_id: UUID, job_id: UUID) -> Iterator[None]:
        """Follow a job for the duration of the block. Raises 503 (E2051) and 429 (E2052)."""
        of_workspace = sum(n for (each, _), n in self._followers.items() if each == workspace_id)
        if of_workspace >= self._per_workspace_max:
            raise ApiError(codes.TOO_MANY_JOB_FOLLOWERS_OF_WORKSPACE, limit=self._per_workspace_max)
        if self._followers.total() >= self._max:
            raise ApiError(codes.TOO_MANY_JOB_FOLLOWERS, limit=self._max)
        followed = (workspace_id, job_id)
        self._followers[followed] += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="job-feed")
        try:
            yield
        finally:
            self._followers[followed] -= 1
            if not self._followers[followed]:
                del self._followers[followed]
                self._states.pop(followed, None)

    async def _next_state(self, followed: Followed, version: int) -> JobState | None:
        """Wait for a version after this one. Return None when a heartbeat is due first."""

        def has_news() -> bool:
            state = self._states.get(followed)
            return self._is_stopping or (state is not None and state.version > version)

        async with self._updated:
            try:
                await asyncio.wait_for(self._updated.wait_for(has_news), HEARTBEAT_INTERVAL_S)
            except TimeoutError:
                return None
        return self._states.get(followed)

    async def _run(self) -> None:
        while self._followers:
            position = self._checkpoints.position_of(PROJECTION)
            try:
                await self._query()
            except (psycopg.Error, PoolTimeout, TooManyRequests) as error:
                log.warning("the followed jobs cannot be read: %s", error)
            await asyncio.sleep(QUERY_INTERVAL_S)
            await self._checkpoints.wait_until_projected(
                (PROJECTION,), position + 1, IDLE_INTERVAL_S
            )

    async def _query(self) -> None:
        wanted: dict[UUID, list[UUID]] = {}
        for workspace_id, job_id in self._followers:
            wanted.setdefault(workspace_id, []).append(job_id)
        for workspace_id, ids in wanted.items():
            async with self._reads.workspace(workspace_id) as connection:
                found = await job_states(connection, workspace_id, ids)
            async with self._updated:
                for job_id, state in found.items():
                    if (workspace_id, job_id) in self._followers:  # it may have left meanwhile
                        self._states[workspace_id, job_id] = state
                self._updated.notify_all()


def _event_name(state: JobState) -> str:
    return END if state.has_ended else PROGRESS
