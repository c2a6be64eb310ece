"""A turn: a claimed job is taken some steps further, each step in one transaction.

What a step records and the progress that it makes are committed together. Should two workers ever
be at the same job, the version of its stream lets only one of them commit.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.persistence import IntegrityError, InterfaceError, OperationalError
from psycopg_pool import PoolTimeout, TooManyRequests

from commands.entities import EntityCommands
from commands.jobs.keeping import close, is_waiting, keep_errors, note_turn
from commands.jobs.work import CannotGoOn, ErrorSummary, JobContext, JobWork, OpenWork
from domain.job import Job, JobStep
from eventlog.scope import Scope
from eventlog.store.log import EventLog, evolve
from eventlog.store.streams import EventSearch, TracedEvent

log = logging.getLogger(__name__)

TURN_S = 2.0
"""After this time a job lets others have their turn."""
ITEM_ATTEMPTS_MAX = 3
"""How often an item that fails alone is tried where what failed may pass: a lock, a timeout."""
FAULTS_IN_A_ROW_MAX = 20
"""When so many items, one after the other, fail alone, it is not they that are at fault: the job
fails, and leaves the others as they are."""

NO_CONNECTION = (
    OperationalError,
    InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    TooManyRequests,
)
TOOK_TOO_LONG = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.TransactionTimeout,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
"""The database answers, but not to this: fewer items may do."""


@dataclass(frozen=True)
class Tools:
    """What turns are taken with."""

    log: EventLog
    commands: EntityCommands
    works: Mapping[str, OpenWork]
    """What makes the work, by kind."""
    tell: Callable[[Exception], ErrorSummary]
    clock: Callable[[], datetime]
    new_id: Callable[[], UUID]


class JobRun:
    """One turn on one job, which the caller has claimed."""

    def __init__(self, tools: Tools, workspace_id: UUID, job_id: UUID) -> None:
        self._tools = tools
        self._log = tools.log
        self._job_id = job_id
        history = self._history(workspace_id)
        self._job: Job = evolve(None, [each.event for each in history])
        asked = Scope.of(workspace_id, history[0].metadata)
        self._scope = replace(asked, extra={**asked.extra, "jobId": str(job_id)})
        self._attempts = 0
        self._faults = 0

    def take(self, *, turn_s: float = TURN_S, stop: Callable[[], bool] = lambda: False) -> None:
        """Do steps until the job has ended, the time is over or a stop is asked for; one at least.

        Raises what `NO_CONNECTION` has where the database cannot be reached; the step at hand is
        not kept then, or it was and the next turn finds it.
        """
        try:
            self._begin()
            work = self._open_work()
            if work is not None:
                self._take(work, time.monotonic() + turn_s, stop)
        except TurnOver:
            return

    def _take(self, work: JobWork, until: float, stop: Callable[[], bool]) -> None:
        limit, begun_at = work.LIMIT, self._job.version
        while self._job.is_open:
            try:
                self._step(work, limit)
            except TurnOver:
                raise
            except CannotGoOn as reason:
                self._fail(reason)
            except Exception as error:  # noqa: BLE001 - whatever it is, it spoils one item at most
                limit = self._fewer(work, limit, error)
            else:
                limit = min(work.LIMIT, limit * 2)
                self._attempts = self._faults = 0
            # A turn in which nothing was done yet goes on: the next one would fail like it.
            if stop() or (time.monotonic() >= until and self._job.version > begun_at):
                return

    def _begin(self) -> None:
        """The job has started. Raises `TurnOver` where there is nothing to do."""
        with self._log.transaction(self._scope) as connection:
            if not self._job.is_open or not self._is_open(connection):
                raise TurnOver
            note_turn(connection, self._scope.workspace_id, self._job_id)
        self._record(lambda job: job.start(at=self._tools.clock()))

    def _open_work(self) -> JobWork | None:
        """The work; None where it cannot be begun, for which the job fails. Raises `TurnOver`."""
        context = JobContext(
            log=self._log,
            commands=self._tools.commands,
            scope=self._scope,
            job_id=self._job_id,
            parameters=self._job.parameters,
            total=self._job.total,
            clock=self._tools.clock,
            new_id=self._tools.new_id,
            tell=self._tools.tell,
        )
        try:
            return self._tools.works[self._job.work](context)
        except NO_CONNECTION:
            raise
        except Exception as error:
            log.exception("job %s cannot be begun", self._job_id)
            self._fail(error)
            return None

    def _step(self, work: JobWork, limit: int) -> None:
        self._keep(lambda: work.step(self._job.cursor, limit))

    def _keep(self, act: Callable[[], JobStep]) -> None:
        """Act and record what came of it, in one transaction. Raises `TurnOver`."""
        job = copy.deepcopy(self._job)
        with self._log.transaction(self._scope) as connection:
            if not self._is_open(connection):
                raise TurnOver
            step = act()
            known = job.errors_total
            job.progress(step, at=self._tools.clock())
            self._log.append(job)
            # After the append: whoever cancels meanwhile waits there, and holds nothing of this.
            keep_errors(connection, self._scope.workspace_id, self._job_id, known, step.errors)
            if not job.is_open:
                close(connection, self._scope.workspace_id, self._job_id)
        self._job = job

    def _fewer(self, work: JobWork, limit: int, error: Exception) -> int:
        """The step failed as a whole: with how many items it is tried again.

        An item that fails alone is left out; where that happens again and again, the job fails.
        Raises the error where the database is gone.
        """
        cause = error.__cause__ if isinstance(error, OperationalError) else error
        may_pass = isinstance(cause, TOOK_TOO_LONG) or isinstance(error, IntegrityError)
        if isinstance(error, NO_CONNECTION) and not may_pass:
            raise error
        if self._is_outrun():
            raise TurnOver from None
        log.warning("job %s: a step of %d items failed: %r", self._job_id, limit, error)
        if limit > 1:
            return limit // 2
        self._attempts += 1
        if not may_pass or self._attempts >= ITEM_ATTEMPTS_MAX:
            self._attempts = 0
            self._faults += 1
            if self._faults > FAULTS_IN_A_ROW_MAX:
                self._fail(error)
            else:
                self._leave_out(work, error)
        return 1

    def _leave_out(self, work: JobWork, error: Exception) -> None:
        try:
            self._keep(lambda: work.skip(self._job.cursor, error))
        except IntegrityError:
            raise TurnOver from None

    def _fail(self, reason: Exception) -> None:
        cause = reason.__cause__ if isinstance(reason, CannotGoOn) else None
        told = self._tools.tell(cause if isinstance(cause, Exception) else reason)
        content = {"code": told.code, "error": told.error}

        def fail(job: Job) -> None:
            job.fail(content, at=self._tools.clock())

        self._record(fail)

    def _record(self, decide: Callable[[Job], None]) -> None:
        """Record what is decided. Raises `TurnOver` where somebody else was faster."""
        job = copy.deepcopy(self._job)
        decide(job)
        try:
            with self._log.transaction(self._scope) as connection:
                self._log.append(job)
                if not job.is_open:
                    close(connection, self._scope.workspace_id, self._job_id)
        except IntegrityError:
            raise TurnOver from None
        self._job = job

    def _is_open(self, connection: Any) -> bool:
        return is_waiting(connection, self._scope.workspace_id, self._job_id)

    def _is_outrun(self) -> bool:
        """Whether the job has gone on without us, or was cancelled."""
        with self._log.transaction(self._scope):
            return self._log.load(Job, self._job_id).version != self._job.version

    def _history(self, workspace_id: UUID) -> list[TracedEvent]:
        with self._log.transaction(Scope(workspace_id)) as connection:
            tracing = EventSearch(connection, self._log.mapper, workspace_id)
            return tracing.streams({self._job_id})[self._job_id]


class TurnOver(Exception):
    """The job was cancelled, or somebody else works on it."""
