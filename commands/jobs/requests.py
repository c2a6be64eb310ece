"""Commands that request a job and cancel one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from commands.decisions import retry_on_conflict
from commands.jobs.job_store import close_job, count_open, enqueue, save_items
from domain.job import Job
from domain.shared.refusals import Refusal
from eventlog.scope import Scope
from eventlog.store.log import EventLog


@dataclass
class TooManyOpenJobs(Refusal):
    """The workspace has the maximum number of jobs that have not ended."""

    limit: int


@dataclass(frozen=True)
class JobOutcome:
    """The job after the command, and a log position that includes the command's events."""

    job: Job
    position: int


class JobCommands:
    """Handles commands on jobs. Thread-safe; clock and ids are passed in."""

    def __init__(
        self,
        log: EventLog,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
        open_max: int | None = None,
    ) -> None:
        """`open_max` is the maximum number of jobs of a workspace that have not ended."""
        self._log = log
        self._clock = clock
        self._new_id = new_id
        self._open_max = open_max

    def request(
        self,
        scope: Scope,
        work: str,
        parameters: Mapping[str, Any],
        *,
        items: Iterable[Any] | None = None,
        total: int | None = None,
        job_id: UUID | None = None,
    ) -> JobOutcome:
        """Request a job of the kind `work`. Workers see it once the transaction is committed.

        `items` (each of them JSON) are stored in order until the job ends, and give its total. Work
        without items may pass `total`, or set it in a later step. All events of the job carry actor
        and command of `scope`: undoing that command undoes the job.

        Raises `TooManyOpenJobs`. Concurrent requests do not see each other, so they may exceed the
        maximum by their number.
        """
        job_id = job_id or self._new_id()
        with self._log.transaction(scope) as connection:
            most = self._open_max
            if most is not None and count_open(connection, scope.workspace_id, most) >= most:
                raise TooManyOpenJobs(most)
            if items is not None:
                total = save_items(connection, scope.workspace_id, job_id, items)
            job = Job.request(
                job_id, scope.workspace_id, work, parameters, total=total, at=self._clock()
            )
            enqueue(connection, scope.workspace_id, job_id, work)
            return self._append(job)

    def cancel(self, scope: Scope, job_id: UUID) -> JobOutcome:
        """Cancel the job: no further step is recorded. Raises `NotFound`, `JobEnded`."""

        def decide() -> JobOutcome:
            with self._log.transaction(scope) as connection:
                job = self._log.load(Job, job_id)
                job.cancel(at=self._clock())
                outcome = self._append(job)
                # After the append, in the same order as a worker, so that no deadlock is possible.
                close_job(connection, scope.workspace_id, job_id)
                return outcome

        return retry_on_conflict(decide)

    def _append(self, job: Job) -> JobOutcome:
        position = self._log.append(job)
        return JobOutcome(job, position or self._log.taken_position())
