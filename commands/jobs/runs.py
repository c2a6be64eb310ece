"""A job run: some steps of a claimed job, each in one transaction.

What a step records and the progress that it makes are committed together. If two workers ever work
on the same job, the version of the job's stream lets only one of them commit.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from uuid import UUID

import psycopg
from eventsourcing.persistence import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    PersistenceError,
)
from psycopg_pool import PoolTimeout, TooManyRequests

from commands.entities import EntityCommands
from commands.jobs.job_store import (
    close_job,
    is_open,
    record_run,
    record_success,
    save_errors,
)
from commands.jobs.work import CannotContinue, ErrorSummary, JobContext, JobWork, WorkFactory
from domain.job import Job, JobStep
from domain.shared.refusals import Refusal
from eventlog.connections import WRITES_REFUSED, Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog, evolve
from eventlog.store.search import EventSearch, TracedEvent

log = logging.getLogger(__name__)

SLICE_S = 2.0
"""The time after which a run ends, so that other jobs get their share."""
ITEM_ATTEMPTS_MAX = 3
"""Maximum number of attempts on an item that fails alone with a transient error (lock, timeout)."""
CONSECUTIVE_FAULTS_MAX = 20
"""Maximum number of consecutive items that fail alone. After one more the cause cannot be in the
items: the job fails, and the remaining items are not processed."""

FRUITLESS_RUNS_MAX = 10
"""Maximum number of consecutive runs of a job that end by an exception, or with their process,
before they have done anything. The next run fails the job, so that it cannot block others for ever.
"""

CONNECTION_LOST = (
    OperationalError,
    InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    *WRITES_REFUSED,
    PoolTimeout,
    TooManyRequests,
)
TRANSIENT_DATABASE_ERRORS = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.TransactionTimeout,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
"""The database rejects this transaction; one with fewer items may succeed."""


@dataclass(frozen=True)
class JobEnvironment:
    """What all job runs of a process share."""

    log: EventLog
    commands: EntityCommands
    factories: Mapping[str, WorkFactory]
    """Functions that create the work, by kind of work."""
    summarise_error: Callable[[Exception], ErrorSummary]
    clock: Callable[[], datetime]
    new_id: Callable[[], UUID]


class JobRun:
    """One run of one job. The caller has claimed the job."""

    def __init__(self, environment: JobEnvironment, workspace_id: UUID, job_id: UUID) -> None:
        self._environment = environment
        self._log = environment.log
        self._job_id = job_id
        history = self._history(workspace_id)
        self._job: Job = evolve(None, [each.event for each in history])
        requested = Scope.of(workspace_id, history[0].metadata)
        self._scope = replace(requested, extra={**requested.extra, "jobId": str(job_id)})
        self._attempts = 0
        self._faults = 0
        self._is_first_step = True

    def run(self, *, slice_s: float = SLICE_S, stop: Callable[[], bool] = lambda: False) -> None:
        """Run steps until the job has ended, the time is up or `stop` returns True.

        When the time is up, the run still goes on until it has recorded something. Raises one of
        `CONNECTION_LOST` if the database cannot be reached; the current step is then rolled back,
        or the next run finds it committed.
        """
        try:
            self._start()
            work = self._open_work()
            if work is not None:
                self._run_steps(work, time.monotonic() + slice_s, stop)
                if self._is_first_step:
                    self._record_success()
        except JobRunAborted:
            return
        except WRITES_REFUSED:
            with suppress(PersistenceError, psycopg.Error):  # there may be no room for this either
                self._record_success()
            raise

    def _run_steps(self, work: JobWork, until: float, stop: Callable[[], bool]) -> None:
        limit, version_before = work.LIMIT, self._job.version
        while self._job.is_open:
            try:
                self._commit_step(partial(work.step, self._job.cursor, limit))
            except JobRunAborted:
                raise
            except CannotContinue as reason:
                self._fail(reason)
            except Exception as error:  # noqa: BLE001 - it fails one item at most
                limit = self._reduce_limit(work, limit, error)
            else:
                limit = min(work.LIMIT, limit * 2)
                self._attempts = self._faults = 0
            # A run that has recorded nothing goes on, as the next run would fail in the same way.
            if stop() or (time.monotonic() >= until and self._job.version > version_before):
                return

    def _start(self) -> None:
        """Record the start of the job. Raises `JobRunAborted` if the job has ended."""
        with self._log.transaction(self._scope) as connection:
            if not self._job.is_open or not self._is_open(connection):
                raise JobRunAborted
            runs = record_run(connection, self._scope.workspace_id, self._job_id)
        self._record(lambda job: job.start(at=self._environment.clock()))
        if runs > FRUITLESS_RUNS_MAX:
            self._fail(TooManyFruitlessRuns(runs - 1))
            raise JobRunAborted

    def _open_work(self) -> JobWork | None:
        """Create the work; None if that fails, which fails the job. Raises `JobRunAborted`."""
        environment = self._environment
        context = JobContext(
            log=self._log,
            commands=environment.commands,
            scope=self._scope,
            job_id=self._job_id,
            parameters=self._job.parameters,
            total=self._job.total,
            clock=environment.clock,
            new_id=environment.new_id,
            summarise_error=environment.summarise_error,
        )
        try:
            return environment.factories[self._job.work](context)
        except CONNECTION_LOST:
            raise
        except Exception as error:
            log.exception("job %s cannot start", self._job_id)
            self._fail(error)
            return None

    def _commit_step(self, process_items: Callable[[], JobStep]) -> None:
        """Process items and record the progress in one transaction. Raises `JobRunAborted`."""
        job = copy.deepcopy(self._job)
        with self._log.transaction(self._scope) as connection:
            if not self._is_open(connection):
                raise JobRunAborted
            step = process_items()
            errors_before = job.errors_total
            job.progress(step, at=self._environment.clock())
            self._log.append(job)
            # After the append, in the same order as a cancellation: no deadlock is possible.
            workspace_id = self._scope.workspace_id
            save_errors(connection, workspace_id, self._job_id, errors_before, step.errors)
            if self._is_first_step:
                record_success(connection, workspace_id, self._job_id)
            if not job.is_open:
                close_job(connection, workspace_id, self._job_id)
        self._job = job
        self._is_first_step = False

    def _reduce_limit(self, work: JobWork, limit: int, error: Exception) -> int:
        """Handle a step that failed as a whole; return the number of items for the next attempt.

        An item that fails alone is skipped; after many of those in a row, or if it cannot be
        skipped, the job fails. Raises the error again if the database cannot be reached, and
        `JobRunAborted`.
        """
        cause = error.__cause__ if isinstance(error, OperationalError) else error
        is_conflict = isinstance(error, IntegrityError)
        is_transient = is_conflict or isinstance(cause, TRANSIENT_DATABASE_ERRORS)
        if isinstance(error, CONNECTION_LOST) and not is_transient:
            raise error
        if self._is_stale():
            raise JobRunAborted from None
        log.warning("job %s: a step of %d items failed: %r", self._job_id, limit, error)
        if limit > 1:
            return limit // 2
        self._attempts += 1
        if not is_transient or self._attempts >= ITEM_ATTEMPTS_MAX:
            self._attempts = 0
            self._faults += 1
            if self._faults > CONSECUTIVE_FAULTS_MAX:
                self._fail(error)
            else:
                self._skip_item(work, error)
        return 1

    def _skip_item(self, work: JobWork, error: Exception) -> None:
        try:
            self._commit_step(lambda: work.skip(self._job.cursor, error))
        except IntegrityError:
            raise JobRunAborted from None
        except (JobRunAborted, *CONNECTION_LOST):
            raise
        except Exception as fault:
            log.exception("job %s: an item that failed cannot be skipped", self._job_id)
            self._fail(fault)

    def _fail(self, reason: Exception) -> None:
        cause = reason.__cause__ if isinstance(reason, CannotContinue) else None
        error = cause if isinstance(cause, Exception) else reason
        summary = self._environment.summarise_error(error)
        content = {"code": summary.code, "error": summary.error}
        self._record(lambda job: job.fail(content, at=self._environment.clock()))

    def _record(self, decide: Callable[[Job], None]) -> None:
        """Record a decision of the job. Raises `JobRunAborted` after a concurrent write."""
        job = copy.deepcopy(self._job)
        decide(job)
        try:
            with self._log.transaction(self._scope) as connection:
                self._log.append(job)
                if not job.is_open:
                    close_job(connection, self._scope.workspace_id, self._job_id)
        except IntegrityError:
            raise JobRunAborted from None
        self._job = job

    def _record_success(self) -> None:
        """Record that the run could do nothing by no fault of the job."""
        with self._log.transaction(self._scope) as connection:
            record_success(connection, self._scope.workspace_id, self._job_id)

    def _is_open(self, connection: Connection) -> bool:
        return is_open(connection, self._scope.workspace_id, self._job_id)

    def _is_stale(self) -> bool:
        """Whether another worker has advanced the job, or it was cancelled."""
        with self._log.transaction(self._scope):
            return self._log.load(Job, self._job_id).version != self._job.version

    def _history(self, workspace_id: UUID) -> list[TracedEvent]:
        with self._log.transaction(Scope(workspace_id)) as connection:
            search = EventSearch(connection, self._log.mapper, workspace_id)
            return search.load_streams({self._job_id})[self._job_id]


@dataclass
class TooManyFruitlessRuns(Refusal):
    """Too many runs of the job ended before they had done anything."""

    runs: int


class JobRunAborted(Exception):
    """The job has ended, or another worker works on it."""
