"""Commands on jobs: ask for one, cancel one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from commands.entities import retry_on_conflict
from commands.jobs.keeping import close, enqueue, keep_items
from domain.job import Job
from eventlog.scope import Scope
from eventlog.store.log import EventLog


@dataclass(frozen=True)
class JobOutcome:
    """The job after the command, and the log position by which that is recorded."""

    job: Job
    position: int


class JobCommands:
    """Handles commands on jobs. Thread-safe; clock and ids are passed in."""

    def __init__(
        self, log: EventLog, *, clock: Callable[[], datetime], new_id: Callable[[], UUID]
    ) -> None:
        self._log = log
        self._clock = clock
        self._new_id = new_id

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
        """A new job for a kind of work; workers find it once this transaction is committed.

        `items` (JSON each) are kept with the job until it ends, in order, and give its total; work
        without items may say `total`, or find it out. All events of the job carry the actor and the
        command of `scope`: by that command it is undone.
        """
        job_id = job_id or self._new_id()
        with self._log.transaction(scope) as connection:
            if items is not None:
                total = keep_items(connection, scope.workspace_id, job_id, items)
            job = Job.request(
                job_id, scope.workspace_id, work, parameters, total=total, at=self._clock()
            )
            enqueue(connection, scope.workspace_id, job_id, work)
            return self._append(job)

    def cancel(self, scope: Scope, job_id: UUID) -> JobOutcome:
        """No further step is taken; what was done stays. Raises `NotFound`, `JobEnded`."""

        def decide() -> JobOutcome:
            with self._log.transaction(scope) as connection:
                job = self._log.load(Job, job_id)
                job.cancel(at=self._clock())
                outcome = self._append(job)
                # After the append, as a worker does: each waits for the other there and nowhere.
                close(connection, scope.workspace_id, job_id)
                return outcome

        return retry_on_conflict(decide)

    def _append(self, job: Job) -> JobOutcome:
        position = self._log.append(job)
        return JobOutcome(job, position or self._log.taken_position())
