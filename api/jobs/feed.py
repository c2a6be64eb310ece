"""The progress of jobs, told to all who follow one: one look at the tables serves them all."""

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
from readmodels.checkpoints import Checkpoints
from readmodels.jobs import JobState, job_states
from readmodels.pool import ReadPool
from runtime import codes
from runtime.errors import ApiError

log = logging.getLogger(__name__)

FOLLOWERS_MAX = 500
"""Most who follow jobs by one process."""
LOOK_INTERVAL_S = 0.1
"""Jobs that somebody follows are looked at no more often than this."""
IDLE_INTERVAL_S = 0.5
"""And so often where the projection does not move, for those who have only just come."""
PROJECTION = "jobs"
PROGRESS = "progress"
END = "end"
"""Names of the events: of the last one, and of those before."""

Followed = tuple[UUID, UUID]
"""Workspace and job."""


class JobFeed:
    """Looks at the jobs that are followed whenever their projection has moved. In the event loop.

    It asks nothing while nobody follows.
    """

    def __init__(self, reads: ReadPool, checkpoints: Checkpoints) -> None:
        self._reads = reads
        self._checkpoints = checkpoints
        self._followers: Counter[Followed] = Counter()
        self._states: dict[Followed, JobState] = {}
        self._looked = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._is_stopping = False
        self._waking: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """The server stops: end all streams, their clients come back to another one.

        From whichever thread.
        """
        self._is_stopping = True
        self._loop.call_soon_threadsafe(self._begin_to_wake)

    def _begin_to_wake(self) -> None:
        self._waking = self._loop.create_task(self._wake(), name="job-feed-stop")

    async def _wake(self) -> None:
        async with self._looked:
            self._looked.notify_all()

    async def follow(
        self, workspace_id: UUID, job_id: UUID, state: JobState, after_version: int
    ) -> AsyncIterator[bytes]:
        """Frames of the job at versions beyond this one, until it has ended; `state` is it now."""
        version = after_version
        with self._following((workspace_id, job_id)):
            yield opening()
            found: JobState | None = state
            while True:
                if found is None:
                    yield heartbeat()
                elif found.version > version or found.has_ended:
                    version = found.version
                    yield frame(_name(found), found.content, version)
                    if found.has_ended:
                        return
                found = await self._next((workspace_id, job_id), version)
                if self._is_stopping:
                    return

    def require_room(self) -> None:
        """Raise 503 (E2051) where as many follow as may."""
        if self._followers.total() >= FOLLOWERS_MAX:
            raise ApiError(codes.TOO_MANY_JOB_FOLLOWERS)

    async def close(self) -> None:
        """Look no more."""
        for task in (self._task, self._waking):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    @contextmanager
    def _following(self, followed: Followed) -> Iterator[None]:
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

    async def _next(self, followed: Followed, version: int) -> JobState | None:
        """The job at a version beyond this one; None where time for a heartbeat comes first."""

        def is_beyond() -> bool:
            state = self._states.get(followed)
            return self._is_stopping or (state is not None and state.version > version)

        async with self._looked:
            try:
                await asyncio.wait_for(self._looked.wait_for(is_beyond), HEARTBEAT_INTERVAL_S)
            except TimeoutError:
                return None
        return self._states.get(followed)

    async def _run(self) -> None:
        while self._followers:
            position = self._checkpoints.position(PROJECTION)
            try:
                await self._look()
            except (psycopg.Error, PoolTimeout, TooManyRequests) as error:
                log.warning("jobs that are followed cannot be looked at: %s", error)
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self._checkpoints.wait_for((PROJECTION,), position + 1, IDLE_INTERVAL_S)

    async def _look(self) -> None:
        wanted: dict[UUID, list[UUID]] = {}
        for workspace_id, job_id in self._followers:
            wanted.setdefault(workspace_id, []).append(job_id)
        for workspace_id, ids in wanted.items():
            async with self._reads.workspace(workspace_id) as connection:
                found = await job_states(connection, workspace_id, ids)
            async with self._looked:
                for job_id, state in found.items():
                    if (workspace_id, job_id) in self._followers:  # still
                        self._states[workspace_id, job_id] = state
                self._looked.notify_all()


def _name(state: JobState) -> str:
    return END if state.has_ended else PROGRESS
